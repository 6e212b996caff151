//! podman on the runtime under test: what a user of podman does all day.
//!
//! `BROOD_OCI_UNDER_TEST=runc cargo test -p brood-tests --test podman` asks the same of runc.

use std::fs;
use std::path::Path;

use brood_tests::{Cmd, Podman, Running, Sandbox, procfs, waiting};
use serde_json::json;

/// A program that lives until SIGTERM and then ends with status 7; it says so when it is ready.
const UNTIL_TERM: [&str; 3] = ["sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 1000 & wait; done"];

#[test]
fn run_passes_output_and_exit_status_on() {
    let sandbox = Sandbox::new();
    let podman = Podman::new(&sandbox);
    let output = podman.container("run", &["--rm"], &["sh", "-c", "echo out; echo err >&2; exit 3"]).run().expect(3);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"));
    let killed = podman.container("run", &["--rm"], &["sh", "-c", "kill -9 $$"]).run();
    // Process 1 cannot kill itself: the kernel protects it from its own signals.
    assert_eq!(killed.code(), 0, "{killed}");
    assert_eq!(sandbox.containers(), Vec::<String>::new(), "--rm leaves no state");
}

#[test]
fn run_passes_input_on() {
    let sandbox = Sandbox::new();
    let podman = Podman::new(&sandbox);
    let echoed = podman.container("run", &["--rm", "--interactive"], &["cat"]).stdin("through\n").run().ok();
    assert_eq!(echoed, "through\n");
}

#[test]
fn a_program_that_is_missing_is_127_and_one_that_cannot_be_run_is_126() {
    let sandbox = Sandbox::new();
    let podman = Podman::new(&sandbox);
    let missing = podman.container("run", &["--rm"], &["/no/such/program"]).run().expect(127);
    assert!(missing.stderr.contains("/no/such/program"), "{missing}");
    let refused = podman.container("run", &["--rm"], &["/etc/passwd"]).run().expect(126);
    assert!(refused.stderr.to_lowercase().contains("permission denied"), "{refused}");
    podman.up("box", &[], &UNTIL_TERM);
    podman.run("exec", &["box", "/no/such/program"]).expect(127);
    podman.run("exec", &["box", "/etc/passwd"]).expect(126);
}

#[test]
fn a_detached_container_logs_takes_execs_and_stops_at_sigterm() {
    let sandbox = Sandbox::new();
    let podman = Podman::new(&sandbox);
    podman.up("box", &[], &UNTIL_TERM);
    await_log(&podman, "box", "ready");
    assert_eq!(podman.inspect("box", "{{.State.Status}}"), "running");

    let output = podman.exec("box", "echo out; echo err >&2; exit 5").expect(5);
    assert_eq!(output.stdout, "out\n");
    assert!(output.stderr.contains("err\n"), "{output}");
    let fed = podman.run_with_input("exec", &["--interactive", "box", "cat"], "through");
    assert_eq!(fed, "through");

    podman.run("stop", &["--time=20", "box"]).ok();
    assert_eq!(podman.inspect("box", "{{.State.Status}} {{.State.ExitCode}}"), "exited 7");
    podman.run("rm", &["box"]).ok();
    assert_eq!(sandbox.containers(), Vec::<String>::new());
}

#[test]
fn an_exec_has_the_user_directory_and_variables_that_were_asked_for() {
    let sandbox = Sandbox::new();
    let podman = Podman::new(&sandbox);
    podman.up("box", &["--env=ONE=1"], &UNTIL_TERM);
    let options = ["--user=nobody", "--workdir=/tmp", "--env=TWO=2", "box"];
    let script = ["sh", "-c", "echo $(id -un) $(pwd) $ONE $TWO $(grep CapEff /proc/self/status)"];
    let printed = podman.run("exec", &[options.as_slice(), &script].concat()).ok();
    assert_eq!(printed, "nobody /tmp 1 2 CapEff: 0000000000000000\n");
}

#[test]
fn a_detached_exec_goes_on_without_its_caller() {
    let sandbox = Sandbox::new();
    let podman = Podman::new(&sandbox);
    podman.up("box", &[], &UNTIL_TERM);
    podman.run("exec", &["--detach", "box", "sh", "-c", "echo done > /tmp/mark"]).ok();
    let mark = podman.rootfs().join("tmp/mark");
    waiting::until("the detached exec", || fs::read_to_string(&mark).ok().filter(|text| text == "done\n"));
}

#[test]
fn a_terminal_is_the_programs_and_has_the_users_size() {
    let sandbox = Sandbox::new();
    let podman = Podman::new(&sandbox);
    let (mut shell, terminal) =
        podman.container("run", &["--rm", "--interactive", "--tty"], &["sh"]).start_on_terminal();
    await_prompt(&mut shell);
    // podman sets the size once the program has been started.
    terminal.type_text("tty; until stty size | grep -x '24 80'; do usleep 5000; done; echo si''zed\n");
    shell.output_until(|text| text.contains("/dev/pts/0") && text.contains("sized\r"));
    terminal.resize(33, 99);
    terminal.type_text("until stty size | grep -x '33 99'; do usleep 5000; done; echo re''sized\n");
    shell.output_until(|text| text.contains("resized"));
    terminal.type_text("sh -c 'echo run''ning; exec sleep 1000'\n");
    shell.output_until(|text| text.contains("running"));
    terminal.type_text("\u{3}");
    shell.output_until(|text| text.contains("^C\r\n/ # "));
    terminal.type_text("exit 4\n");
    shell.finish().expect(4);
}

#[test]
fn an_exec_gets_a_terminal_too() {
    let sandbox = Sandbox::new();
    let podman = Podman::new(&sandbox);
    podman.up("box", &[], &UNTIL_TERM);
    let (mut shell, terminal) =
        podman.command("exec").args(["--interactive", "--tty", "box", "sh"]).start_on_terminal();
    await_prompt(&mut shell);
    terminal.type_text("tty; test -t 0 -a -t 1 -a -t 2 && echo all''three; ps -o tty,args; exit 6\n");
    let output = shell.finish().expect(6);
    assert!(output.stdout.contains("allthree") && output.stdout.contains("/dev/pts/"), "{output}");
}

#[test]
fn a_detached_terminal_is_kept_for_attach() {
    let sandbox = Sandbox::new();
    let podman = Podman::new(&sandbox);
    podman.up("box", &["--interactive", "--tty"], &["sh"]);
    let (mut shell, terminal) = podman.command("attach").arg("box").start_on_terminal();
    terminal.type_text("\n");
    await_prompt(&mut shell);
    terminal.type_text("tty; exit 9\n");
    let output = shell.finish();
    assert!(output.stdout.contains("/dev/pts/0"), "{output}");
    assert_eq!(podman.run("wait", &["box"]).ok(), "9\n");
}

#[test]
fn an_init_is_process_one_and_passes_signals_on() {
    let sandbox = Sandbox::new();
    let podman = Podman::new(&sandbox);
    assert!(Path::new("/usr/bin/catatonit").exists(), "apt-get install catatonit");
    podman.up("box", &["--init"], &UNTIL_TERM);
    await_log(&podman, "box", "ready");
    let first = podman.exec("box", "cat /proc/1/cmdline").ok();
    assert!(first.contains("init"), "{first}");
    podman.run("stop", &["--time=20", "box"]).ok();
    assert_eq!(podman.inspect("box", "{{.State.ExitCode}}"), "7");
}

#[test]
fn a_read_only_root_has_writable_temporary_directories() {
    let script = "touch /etc/x 2>&1; touch /tmp/x /run/x /var/tmp/x && echo written";
    let printed = printed(&["--read-only"], script);
    assert!(printed.contains("Read-only file system") && printed.contains("written"), "{printed}");
}

#[test]
fn a_user_by_number_or_name_has_no_caps() {
    let script = "echo $(id -u):$(id -g) $(grep CapEff /proc/self/status)";
    assert_eq!(printed(&["--user=1234:5678"], script), "1234:5678 CapEff: 0000000000000000\n");
    assert_eq!(printed(&["--user=nobody"], script), "65534:65534 CapEff: 0000000000000000\n");
}

#[test]
fn supplementary_groups_are_added() {
    assert_eq!(printed(&["--user=1234:5678", "--group-add=77"], "id -G"), "5678 77\n");
}

#[test]
fn caps_are_dropped_and_added() {
    let effective = "grep CapEff /proc/self/status | cut -f2";
    let caps = |options: &[&str]| u64::from_str_radix(printed(options, effective).trim(), 16).expect("a mask");
    let (chown, net_admin) = (1 << 0, 1 << 12);
    let default = caps(&[]);
    assert_eq!(default & (chown | net_admin), chown);
    assert_eq!(caps(&["--cap-drop=CHOWN"]), default & !chown);
    assert_eq!(caps(&["--cap-drop=ALL"]), 0);
    assert_eq!(caps(&["--cap-add=NET_ADMIN"]), default | net_admin);
}

#[test]
fn the_default_seccomp_profile_is_installed() {
    let script = "grep -w Seccomp: /proc/self/status";
    assert_eq!(printed(&[], script), "Seccomp:\t2\n");
    assert_eq!(printed(&["--security-opt=seccomp=unconfined"], script), "Seccomp:\t0\n");
}

#[test]
fn a_seccomp_profile_of_the_users_is_installed() {
    let sandbox = Sandbox::new();
    let podman = Podman::new(&sandbox);
    let rule = json!({ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 73 });
    let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] });
    let path = sandbox.path("profile.json");
    fs::write(&path, profile.to_string()).expect("our directory");
    let option = format!("--security-opt=seccomp={}", path.display());
    // 73 is EDOTDOT, which no file system gives.
    let script = ["sh", "-c", "mkdir /tmp/d 2>&1 || touch /tmp/f && ls /tmp"];
    let printed = podman.container("run", &["--rm", &option], &script).run().ok();
    assert!(printed.contains("RFS specific error") && printed.ends_with("f\n"), "{printed}");
}

#[test]
fn tmpfs_mounts_have_their_options() {
    let printed =
        printed(&["--tmpfs=/scratch:size=1m,mode=0700,noexec"], "grep ' /scratch ' /proc/mounts; ls -ld /scratch");
    assert!(printed.contains("tmpfs") && printed.contains("size=1024k") && printed.contains("noexec"), "{printed}");
    assert!(printed.contains("drwx------"), "{printed}");
}

#[test]
fn volumes_are_writable_read_only_or_relabelled() {
    let sandbox = Sandbox::new();
    let podman = Podman::new(&sandbox);
    let directory = sandbox.path("shared");
    fs::create_dir(&directory).expect("our directory");
    let volume = |options: &str| format!("--volume={}:/mnt/v{options}", directory.display());
    let run =
        |options: &str, script: &str| podman.container("run", &["--rm", &volume(options)], &["sh", "-c", script]).run();
    run("", "echo here > /mnt/v/file").ok();
    assert_eq!(fs::read_to_string(directory.join("file")).expect("written by the container"), "here\n");
    assert_eq!(run(":ro", "cat /mnt/v/file; touch /mnt/v/x 2>/dev/null || echo refused").ok(), "here\nrefused\n");
    assert_eq!(run(":z", "cat /mnt/v/file").ok(), "here\n");
    assert_eq!(
        run(":ro,z,noexec", "grep -o ' ro,[^ ]*noexec' /proc/mounts | wc -l; cat /mnt/v/file").ok().lines().last(),
        Some("here")
    );
    let named = podman.container("run", &["--rm", "--volume=keep:/mnt/v"], &["sh", "-c", "echo kept > /mnt/v/f"]);
    named.run().ok();
    let read = podman.container("run", &["--rm", "--volume=keep:/mnt/v"], &["cat", "/mnt/v/f"]).run().ok();
    assert_eq!(read, "kept\n");
}

#[test]
fn shared_volumes_see_later_mounts_of_the_host() {
    let sandbox = Sandbox::new();
    let podman = Podman::new(&sandbox);
    let directory = sandbox.path("shared");
    fs::create_dir_all(directory.join("later")).expect("our directory");
    let volume = format!("--volume={}:/mnt/v:rslave", directory.display());
    let output =
        podman.container("run", &["--rm", &volume], &["sh", "-c", "grep ' /mnt/v ' /proc/self/mountinfo"]).run();
    assert!(!output.ok().contains("shared:"), "a slave gives nothing back");
}

#[test]
fn namespaces_are_the_hosts_when_asked() {
    let options = ["--pid=host", "--ipc=host", "--uts=host", "--cgroupns=host"];
    let printed = printed(&options, "for n in pid ipc uts cgroup; do readlink /proc/self/ns/$n; done");
    let ours: Vec<String> = ["pid", "ipc", "uts", "cgroup"].map(procfs::namespace).into();
    assert_eq!(printed.lines().collect::<Vec<_>>(), ours);
}

#[test]
fn namespaces_are_another_containers_when_asked() {
    let sandbox = Sandbox::new();
    let podman = Podman::new(&sandbox);
    podman.up("first", &["--ipc=shareable"], &UNTIL_TERM);
    let script = "for n in pid ipc uts net; do readlink /proc/self/ns/$n; done";
    let first = podman.exec("first", script).ok();
    let options = ["--rm", "--pid=container:first", "--ipc=container:first", "--uts=container:first"];
    let network = "--network=container:first";
    let second = podman.container("run", &[options.as_slice(), &[network]].concat(), &["sh", "-c", script]).run().ok();
    assert_eq!(first, second);
    for kind in ["pid", "ipc", "uts", "net"] {
        assert!(!first.contains(&procfs::namespace(kind)), "{kind} is not the host's: {first}");
    }
}

#[test]
fn a_user_namespace_maps_ids() {
    let sandbox = Sandbox::new();
    let podman = Podman::new(&sandbox);
    Cmd::new("chown").args(["--recursive", "100000:100000"]).arg(podman.rootfs()).run().ok();
    let options = ["--rm", "--uidmap=0:100000:65536", "--gidmap=0:100000:65536"];
    let script = ["sh", "-c", "id -u; cat /proc/self/uid_map | tr -s ' '; touch /tmp/mine"];
    assert_eq!(podman.container("run", &options, &script).run().ok(), "0\n 0 100000 65536\n");
}

#[test]
fn a_health_check_runs_in_the_container() {
    let sandbox = Sandbox::new();
    let podman = Podman::new(&sandbox);
    podman.up("box", &["--health-cmd=test -e /tmp/healthy", "--health-retries=1"], &UNTIL_TERM);
    podman.run("healthcheck", &["run", "box"]).expect(1);
    podman.exec("box", "touch /tmp/healthy").ok();
    podman.run("healthcheck", &["run", "box"]).ok();
    assert_eq!(podman.inspect("box", "{{.State.Healthcheck.Status}}"), "healthy");
}

#[test]
fn a_paused_container_stands_still() {
    let sandbox = Sandbox::new();
    let podman = Podman::new(&sandbox);
    podman.up("box", &[], &UNTIL_TERM);
    await_log(&podman, "box", "ready");
    podman.run("pause", &["box"]).ok();
    assert_eq!(podman.inspect("box", "{{.State.Status}}"), "paused");
    let pid: i32 = podman.inspect("box", "{{.State.Pid}}").parse().expect("a number");
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it lives");
    assert!(cgroup.contains(sandbox.token()), "in its cgroup: {cgroup}");
    podman.run("exec", &["box", "true"]).expect(255);
    podman.run("unpause", &["box"]).ok();
    assert_eq!(podman.inspect("box", "{{.State.Status}}"), "running");
    podman.exec("box", "true").ok();
    podman.run("stop", &["--time=20", "box"]).ok();
    assert_eq!(podman.inspect("box", "{{.State.ExitCode}}"), "7");
}

#[test]
fn kill_sends_the_signal_that_is_named() {
    let sandbox = Sandbox::new();
    let podman = Podman::new(&sandbox);
    let program = ["sh", "-c", "trap 'echo hup' HUP; echo ready; while :; do sleep 1000 & wait; done"];
    podman.up("box", &[], &program);
    await_log(&podman, "box", "ready");
    podman.run("kill", &["--signal=HUP", "box"]).ok();
    await_log(&podman, "box", "hup");
    podman.run("kill", &["box"]).ok();
    assert_eq!(podman.run("wait", &["box"]).ok(), "137\n");
}

#[test]
fn stop_kills_what_ignores_sigterm() {
    let sandbox = Sandbox::new();
    let podman = Podman::new(&sandbox);
    podman.up("box", &[], &["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1000; done"]);
    await_log(&podman, "box", "ready");
    podman.run("stop", &["--time=0", "box"]).ok();
    assert_eq!(podman.inspect("box", "{{.State.ExitCode}}"), "137");
}

#[test]
fn rm_with_force_ends_a_running_container() {
    let sandbox = Sandbox::new();
    let podman = Podman::new(&sandbox);
    podman.up("box", &[], &["sleep", "1000"]);
    let pid = podman.inspect("box", "{{.State.Pid}}").parse().expect("a number");
    podman.run("exec", &["--detach", "box", "sleep", "1000"]).ok();
    podman.run("rm", &["--force", "--time=0", "box"]).ok();
    waiting::gone(pid);
    assert_eq!(sandbox.containers(), Vec::<String>::new());
}

#[test]
fn create_start_and_restart_are_apart() {
    let sandbox = Sandbox::new();
    let podman = Podman::new(&sandbox);
    podman.container("create", &["--name=box"], &UNTIL_TERM).run().ok();
    assert_eq!(podman.inspect("box", "{{.State.Status}}"), "created");
    podman.run("init", &["box"]).ok();
    assert_eq!(podman.inspect("box", "{{.State.Status}}"), "initialized");
    podman.run("start", &["box"]).ok();
    await_log(&podman, "box", "ready");
    let before = podman.inspect("box", "{{.State.Pid}}");
    podman.run("restart", &["--time=20", "box"]).ok();
    assert_ne!(podman.inspect("box", "{{.State.Pid}}"), before);
    assert_eq!(podman.inspect("box", "{{.State.Status}}"), "running");
}

#[test]
fn top_shows_the_processes() {
    let sandbox = Sandbox::new();
    let podman = Podman::new(&sandbox);
    podman.up("box", &[], &["sleep", "4321"]);
    let top = podman.run("top", &["box", "pid", "args"]).ok();
    let lines: Vec<String> = top.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(lines, ["PID COMMAND", "1 sleep 4321"]);
    // Everything that podman does not know itself comes from ps in the container.
    let ps = podman.run("top", &["box", "-o", "pid,args"]).ok();
    assert!(ps.contains("sleep 4321"), "{ps}");
}

#[test]
fn limits_names_and_variables_reach_the_program() {
    let options = [
        "--hostname=finch",
        "--env=COLOUR=red",
        "--workdir=/var",
        "--ulimit=nofile=77:78",
        "--ulimit=nproc=300:300",
        "--shm-size=1m",
        "--security-opt=no-new-privileges",
        "--oom-score-adj=500",
    ];
    let script = "hostname; echo $COLOUR; pwd; ulimit -Sn; ulimit -Hn; df -k /dev/shm | awk 'END { print $2 }'; \
                  grep -c 'NoNewPrivs:.1' /proc/self/status; cat /proc/self/oom_score_adj";
    assert_eq!(printed(&options, script), "finch\nred\n/var\n77\n78\n1024\n1\n500\n");
}

#[test]
fn sysctls_of_its_namespaces_are_set() {
    let options = ["--sysctl=kernel.msgmax=4321", "--sysctl=net.ipv4.ip_forward=1"];
    assert_eq!(printed(&options, "cat /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ip_forward"), "4321\n1\n");
}

#[test]
fn masked_paths_are_unmasked_when_asked() {
    let script = "head -c1 /proc/timer_list | wc -c; test -w /proc/sys/kernel/msgmax && touch /proc/sys/kernel/msgmax && echo writable";
    assert_eq!(printed(&["--security-opt=unmask=ALL"], script), "1\nwritable\n");
    let masked =
        printed(&[], "head -c1 /proc/timer_list | wc -c; touch /proc/sys/kernel/msgmax 2>&1 | grep -c Read-only");
    assert_eq!(masked, "0\n1\n");
}

#[test]
fn a_privileged_container_has_the_devices_and_every_cap() {
    let script = "grep -w Seccomp: /proc/self/status; test -c /dev/kmsg && echo device; mount -t tmpfs none /mnt && echo mounted";
    assert_eq!(printed(&["--privileged", "--tmpfs=/mnt"], script), "Seccomp:\t0\ndevice\nmounted\n");
}

#[test]
fn a_device_is_given() {
    assert_eq!(
        printed(&["--device=/dev/kmsg:/dev/other:r"], "stat -c '%t %T %F' /dev/other"),
        "1 b character special file\n"
    );
}

#[test]
fn hooks_run_at_their_stages() {
    let sandbox = Sandbox::new();
    let podman = Podman::new(&sandbox);
    let (hooks, trace) = (sandbox.path("hooks"), sandbox.path("trace"));
    fs::create_dir(&hooks).expect("our directory");
    for stage in ["createRuntime", "createContainer", "poststop"] {
        let script = format!("grep -o '\"status\": *\"[a-z]*\"' > /dev/null; echo {stage} >> {}", trace.display());
        let hook = json!({
            "version": "1.0.0", "when": { "always": true }, "stages": [stage],
            "hook": { "path": "/bin/sh", "args": ["sh", "-c", script] },
        });
        fs::write(hooks.join(format!("{stage}.json")), hook.to_string()).expect("our directory");
    }
    let run = podman.with_hooks(&hooks, &["--rm"], &["true"]);
    run.run().ok();
    assert_eq!(fs::read_to_string(&trace).unwrap_or_default(), "createRuntime\ncreateContainer\npoststop\n");
}

#[test]
fn an_image_runs_on_either_storage_driver() {
    for driver in ["vfs", "overlay"] {
        let sandbox = Sandbox::new();
        let podman = Podman::with_storage(&sandbox, driver);
        let tar = sandbox.path("nest.tar");
        Cmd::new("tar")
            .arg("--create")
            .arg("--directory")
            .arg(podman.rootfs())
            .arg("--file")
            .arg(&tar)
            .arg(".")
            .run()
            .ok();
        podman
            .command("import")
            .arg("--signature-policy")
            .arg(podman.file("policy.json"))
            .args(["--quiet", "--change=CMD [\"sh\", \"-c\", \"echo from the image\"]"])
            .arg(&tar)
            .arg("nest")
            .run()
            .ok();
        assert_eq!(podman.container_of("nest", &["--rm"], &[]).run().ok(), "from the image\n", "{driver}");
        podman.container_of("nest", &["--name=box"], &["touch", "/mark"]).run().ok();
        let changes = podman.run("diff", &["box"]).ok();
        assert!(changes.lines().any(|line| line == "A /mark"), "{driver}: {changes}");
        podman.run("rm", &["box"]).ok();
        podman.run("rmi", &["nest"]).ok();
    }
}

#[test]
fn fifty_containers_start_at_once() {
    let sandbox = Sandbox::new();
    let podman = Podman::new(&sandbox);
    let started: Vec<Running> = (0..50)
        .map(|n| {
            let script = format!("echo {n}; exit {n}");
            podman.container("run", &["--rm"], &["sh", "-c", &script]).patience(waiting::PATIENCE * 3).start()
        })
        .collect();
    for (n, running) in started.into_iter().enumerate() {
        let output = running.finish().expect(i32::try_from(n).expect("small"));
        assert_eq!(output.stdout, format!("{n}\n"));
    }
    assert_eq!(sandbox.containers(), Vec::<String>::new());
    assert_eq!(podman.run("ps", &["--all", "--quiet"]).ok(), "");
}

/// What a shell script prints in a container of its own, which is removed at its end.
#[track_caller]
fn printed(options: &[&str], script: &str) -> String {
    let sandbox = Sandbox::new();
    let podman = Podman::new(&sandbox);
    podman.container("run", &[&["--rm"], options].concat(), &["sh", "-c", script]).run().ok()
}

fn await_log(podman: &Podman<'_>, name: &str, word: &str) {
    waiting::until(word, || podman.run("logs", &[name]).ok().contains(word).then_some(()));
}

/// Waits for busybox's prompt: from here on what is typed is the shell's.
#[track_caller]
fn await_prompt(shell: &mut Running) {
    shell.output_until(|text| text.contains("# "));
}
