//! buildah on the runtime under test: `buildah run` in a working container.
//!
//! `BROOD_OCI_UNDER_TEST=runc cargo test -p brood-tests --test buildah` asks the same of runc.

use std::fs;

use brood_tests::{Buildah, Sandbox};

#[test]
fn run_passes_output_and_exit_status_on() {
    let sandbox = Sandbox::new();
    let buildah = Buildah::new(&sandbox);
    let output = buildah.run(&[], "echo out; echo err >&2; exit 3");
    assert_eq!(output.stdout, "out\n", "{output}");
    assert!(output.stderr.starts_with("err\n"), "{output}");
    assert_eq!(output.code(), 3, "{output}");
    assert_eq!(sandbox.containers(), Vec::<String>::new());
}

#[test]
fn run_passes_input_on() {
    let sandbox = Sandbox::new();
    let buildah = Buildah::new(&sandbox);
    assert_eq!(buildah.script(&[], "cat").stdin("through\n").run().ok(), "through\n");
}

#[test]
fn what_a_run_writes_is_in_the_next_run_and_in_the_image() {
    let sandbox = Sandbox::new();
    let buildah = Buildah::new(&sandbox);
    buildah.run(&[], "echo built > /etc/built").ok();
    assert_eq!(buildah.run(&[], "cat /etc/built").ok(), "built\n");
    let commit = buildah.command("commit").arg("--quiet").arg("--signature-policy").arg(buildah.policy());
    commit.args([buildah.container(), "nest"]).run().ok();
    let again = buildah.command("from").arg("--signature-policy").arg(buildah.policy()).args(["--pull=never", "nest"]);
    let second = again.run().ok();
    let cat =
        buildah.command("run").args(["--isolation=oci", "--network=none", "--runtime"]).arg(buildah.runtime().path());
    assert_eq!(cat.args([second.trim_end(), "cat", "/etc/built"]).run().ok(), "built\n");
}

#[test]
fn users_caps_directories_volumes_and_names_reach_the_program() {
    let sandbox = Sandbox::new();
    let buildah = Buildah::new(&sandbox);
    assert_eq!(
        buildah.run(&["--user=nobody"], "id -u; grep CapEff /proc/self/status").ok(),
        "65534\nCapEff:\t0000000000000000\n"
    );
    assert_eq!(buildah.run(&["--cap-drop=all"], "grep CapBnd /proc/self/status").ok(), "CapBnd:\t0000000000000000\n");
    assert_eq!(
        buildah.run(&["--workingdir=/tmp", "--env=COLOUR=red", "--hostname=finch"], "pwd; echo $COLOUR; hostname").ok(),
        "/tmp\nred\nfinch\n"
    );
    let directory = sandbox.path("shared");
    fs::create_dir(&directory).expect("our directory");
    fs::write(directory.join("file"), "here\n").expect("our directory");
    let volume = format!("--volume={}:/mnt:ro,z", directory.display());
    assert_eq!(
        buildah.run(&[&volume], "cat /mnt/file; touch /mnt/x 2>/dev/null || echo refused").ok(),
        "here\nrefused\n"
    );
}

#[test]
fn a_terminal_is_given() {
    let sandbox = Sandbox::new();
    let buildah = Buildah::new(&sandbox);
    let (running, _terminal) =
        buildah.script(&["--tty"], "tty; test -t 0 -a -t 1 -a -t 2; exit $?").start_on_terminal();
    let output = running.finish().expect(0);
    assert!(output.stdout.contains("/dev/pts/0"), "{output}");
}

#[test]
fn a_dockerfile_is_built() {
    let sandbox = Sandbox::new();
    let buildah = Buildah::new(&sandbox);
    let file = sandbox.path("Containerfile");
    fs::write(
        &file,
        "FROM scratch\nADD nest.tar /\nRUN echo built > /etc/built && test $(id -u) = 0\nRUN cat /etc/built\n",
    )
    .expect("our directory");
    let rootfs = sandbox.path("nest/rootfs");
    sandbox.command("tar").arg("-C").arg(rootfs).arg("-cf").arg(sandbox.path("nest.tar")).arg(".").run().ok();
    let built = buildah
        .command("build")
        .args(["--isolation=oci", "--network=none", "--runtime"])
        .arg(buildah.runtime().path())
        .arg("--signature-policy")
        .arg(buildah.policy())
        .arg("--file")
        .arg(&file)
        .arg(sandbox.path(""))
        .run()
        .ok();
    assert!(built.contains("\nbuilt\n"), "{built}");
}
