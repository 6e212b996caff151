//! Checkpoint and restore with Debian's CRIU, which needs an older kernel than the host's.

use std::fs;
use std::net::TcpStream;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use brood_tests::terminal::receive;
use brood_tests::{Bundle, Cmd, Container, Daemon, Sandbox, config, counting, guest, procfs, redis, resp, waiting};
use serde_json::{Value, json};

fn count(container: &Container) -> Option<u64> {
    counting::count(&container.bundle)
}

fn counted_to(container: &Container, least: u64) -> u64 {
    counting::counted_to(&container.bundle, least)
}

/// A running container that counts, in a network namespace of its own: in one namespace two restores at a time disturb each
/// other (criu#2499).
fn up(edit: impl Fn(&mut Bundle)) -> Container {
    guest::insist();
    let container = Container::new(|bundle| {
        bundle.sh(counting::PROGRAM);
        config::add_namespace(&mut bundle.config, "network");
        edit(bundle);
    });
    container.create();
    container.call(&["start"]).ok();
    counted_to(&container, 2);
    container
}

fn images(container: &Container) -> PathBuf {
    container.sandbox.path("images")
}

fn checkpoint(container: &Container, options: &[&str]) -> Cmd {
    container.oci(&["checkpoint", "--image-path"]).arg(images(container)).args(options).arg(&container.id)
}

/// `restore -d`
fn restore(container: &Container, options: &[&str]) -> Cmd {
    let command = container.oci(&["restore", "-d", "--image-path"]).arg(images(container)).arg("--bundle");
    command.arg(container.bundle.path()).args(options).arg(&container.id)
}

/// Restores it, and sees it count on from where it was.
fn goes_on(container: &Container, options: &[&str]) {
    let before = count(container).unwrap();
    counting::forget(&container.bundle);
    restore(container, options).run().ok();
    let after = counted_to(container, before + 2);
    // One that had begun anew would have to come by.
    assert!(after < before + 1000 && before > 1, "{before}, then {after}");
    assert_eq!(container.status(), "running");
}

fn away(container: &Container) {
    container.end();
    container.call(&["delete"]).ok();
}

#[test]
#[ignore = "runs in the guest: tests/guest/run"]
fn a_process_that_counts_goes_on_where_it_was() {
    let container = up(|_| {});
    let first = container.pid();
    checkpoint(&container, &[]).run().ok();
    waiting::gone(first);
    assert_eq!(container.sandbox.containers(), Vec::<String>::new(), "it is gone after its checkpoint");
    let descriptors: Value =
        serde_json::from_slice(&fs::read(images(&container).join("descriptors.json")).unwrap()).unwrap();
    assert_eq!(descriptors[0], "/dev/null");
    assert!(descriptors[1].as_str().unwrap().starts_with("pipe:["), "{descriptors}");

    let pid_file = container.sandbox.path("pid");
    goes_on(&container, &["--pid-file", pid_file.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), container.pid().to_string());
    assert_eq!(container.oci(&["exec", &container.id, "cat", "/proc/1/comm"]).run().ok(), "sh\n");
    // It is in the container's cgroup, and can be frozen there.
    container.call(&["pause"]).ok();
    assert_eq!(container.status(), "paused");
    container.call(&["resume"]).ok();
    assert!(container.call(&["ps"]).ok().contains(&container.pid().to_string()));

    // Again, from where it is now, into the same directory; it is paused meanwhile.
    container.call(&["pause"]).ok();
    checkpoint(&container, &[]).run().ok();
    goes_on(&container, &[]);
    away(&container);
}

#[test]
#[ignore = "runs in the guest: tests/guest/run"]
fn leave_running_leaves_it_running() {
    let container = up(|_| {});
    let pid = container.pid();
    checkpoint(&container, &["--leave-running", "--file-locks"]).run().ok();
    assert_eq!((container.status().as_str(), container.pid()), ("running", pid));
    let count = count(&container).unwrap();
    counted_to(&container, count + 2);
    let refused = restore(&container, &[]).run();
    assert!(refused.one_line_error().contains("container with given ID already exists"), "{refused}");
    away(&container);
    goes_on(&container, &[]);
    away(&container);
}

#[test]
#[ignore = "runs in the guest: tests/guest/run"]
fn a_pre_dump_is_the_parent_of_a_checkpoint() {
    let container = up(|_| {});
    let parent = container.sandbox.path("earlier");
    let pre_dump = container.oci(&["checkpoint", "--pre-dump", "--image-path"]).arg(&parent).arg(&container.id).run();
    if pre_dump.code() != 0 && pre_dump.stderr.contains("criu lacks memory tracking") {
        panic!("the guest's kernel has no soft-dirty bits: {pre_dump}");
    }
    pre_dump.ok();
    assert_eq!(container.status(), "running");
    let work = container.sandbox.path("work");
    checkpoint(&container, &["--parent-path", "../earlier", "--work-path", work.to_str().unwrap()]).run().ok();
    assert_eq!(fs::read_link(images(&container).join("parent")).unwrap(), Path::new("../earlier"));
    assert!(work.join("dump.log").is_file() && !images(&container).join("dump.log").exists());
    goes_on(&container, &["--work-path", work.to_str().unwrap()]);
    assert!(work.join("restore.log").is_file());
    away(&container);
}

/// What comes from outside: volumes, below one another and behind links, masks and read-only paths, a network namespace.
#[test]
#[ignore = "runs in the guest: tests/guest/run"]
fn mounts_and_namespaces_of_all_kinds_come_back() {
    guest::insist();
    let sandbox = Sandbox::new();
    let [volume, inner] = ["volume", "inner"].map(|name| sandbox.path(name));
    fs::create_dir_all(&volume).unwrap();
    fs::create_dir_all(&inner).unwrap();
    fs::write(inner.join("mark"), "inner").unwrap();
    let shared = sandbox.path("shared");
    fs::create_dir(&shared).unwrap();
    // As on a host with systemd, where every mount is shared with its peers.
    Cmd::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&shared).run().ok();
    Cmd::new("mount").arg("--make-shared").arg(&shared).run().ok();
    let container = up(|bundle| {
        std::os::unix::fs::symlink("run", bundle.rootfs().join("var/link")).unwrap();
        fs::create_dir_all(bundle.rootfs().join("var/run")).unwrap();
        let bind = |to: &str, of: &Path, options: &[&str]| json!({ "destination": to, "type": "bind", "source": of, "options": options });
        for mount in [
            bind("/data", &volume, &["rbind", "rw"]),
            bind("/data/inner", &inner, &["bind", "ro"]),
            bind("/var/link/late", &inner, &["bind", "ro"]),
            bind("/shared", &shared, &["rbind", "rslave"]),
            bind("/etc/hostname", Path::new("/proc/sys/kernel/hostname"), &["bind", "ro"]),
            json!({ "destination": "/scratch", "type": "tmpfs", "source": "tmpfs" }),
            json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"] }),
        ] {
            config::add_mount(&mut bundle.config, mount);
        }
        config::add_namespace(&mut bundle.config, "cgroup");
    });
    let exec = |script: &str| container.oci(&["exec", &container.id, "sh", "-c", script]).run().ok();
    exec("echo kept > /scratch/file; echo out > /data/file");
    let look = "cat /data/inner/mark /var/run/late/mark /scratch/file; \
        touch /data/inner/x 2>/dev/null || echo read-only; test -s /proc/kcore || echo masked; \
        echo 1 2>/dev/null > /proc/sys/kernel/panic || echo protected; ip -o link show lo | grep -o 'LOOPBACK,UP'";
    let before = exec(look);
    assert_eq!(before, "innerinnerkept\nread-only\nmasked\nprotected\nLOOPBACK,UP\n");
    checkpoint(&container, &[]).run().ok();
    // On another machine the volume would not have it.
    fs::remove_dir(volume.join("inner")).unwrap();
    goes_on(&container, &[]);
    assert_eq!(exec(look), before);
    fs::write(shared.join("later"), "").unwrap();
    exec("test -e /shared/later && cat /data/file");
    away(&container);
    Cmd::new("umount").arg(&shared).run().ok();
}

/// Where the host's mounts are shared, as systemd makes them, all volumes of one file system, and the root, are slaves of one
/// mount, and are so again.
#[test]
#[ignore = "runs in the guest: tests/guest/run"]
fn volumes_of_one_shared_mount_come_back() {
    let container = up(|bundle| {
        let place = bundle.path().parent().unwrap().to_owned();
        Cmd::new("mount").arg("--bind").args([&place, &place]).run().ok();
        Cmd::new("mount").arg("--make-shared").arg(&place).run().ok();
        for directory in ["a/below", "b"] {
            fs::create_dir_all(place.join(directory)).unwrap();
        }
        fs::write(place.join("b/mark"), "b").unwrap();
        fs::write(place.join("file"), "file").unwrap();
        for (to, of, options) in [
            ("/a", "a", ["rbind", "rw"]),
            ("/b", "b", ["bind", "ro"]),
            ("/again", "a", ["bind", "ro"]),
            ("/file", "file", ["bind", "rw"]),
        ] {
            let mount = json!({ "destination": to, "type": "bind", "source": place.join(of), "options": options });
            config::add_mount(&mut bundle.config, mount);
        }
    });
    let place = container.bundle.path().parent().unwrap();
    let below = place.join("a/below");
    let look = "cat /b/mark /file; touch /a/x && echo written; for i in /b /again; do touch $i/x 2>/dev/null || echo read-only; done; \
        cat /a/below/later /again/below/later 2>/dev/null; true";
    let exec = || container.oci(&["exec", &container.id, "sh", "-c", look]).run().ok();
    assert_eq!(exec(), "bfilewritten\nread-only\nread-only\n");
    for _ in 0..2 {
        checkpoint(&container, &[]).run().ok();
        goes_on(&container, &[]);
        assert_eq!(exec(), "bfilewritten\nread-only\nread-only\n");
        Cmd::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&below).run().ok();
        fs::write(below.join("later"), "later").unwrap();
        assert_eq!(exec(), "bfilewritten\nread-only\nread-only\nlaterlater");
        Cmd::new("umount").arg(&below).run().ok();
    }
    away(&container);
    Cmd::new("umount").arg(place).run().ok();
}

#[test]
#[ignore = "runs in the guest: tests/guest/run"]
fn namespaces_of_others_are_joined_again() {
    guest::insist();
    let sandbox = Sandbox::new();
    let name = sandbox.id("net");
    Cmd::new("ip").args(["netns", "add", &name]).run().ok();
    let path = format!("/run/netns/{name}");
    let container = up(|bundle| {
        let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({ "type": "network", "path": path }));
    });
    checkpoint(&container, &[]).run().ok();
    goes_on(&container, &[]);
    let inode = |path: &str| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    assert_eq!(inode(&format!("/proc/{}/ns/net", container.pid())), inode(&path));
    away(&container);
    Cmd::new("ip").args(["netns", "delete", &name]).run().ok();
}

#[test]
#[ignore = "runs in the guest: tests/guest/run"]
fn redis_keeps_its_data_and_its_client() {
    guest::insist();
    let sandbox = Sandbox::new();
    let port = redis::free_port();
    let bundle = redis::bundle(&sandbox, port);
    let container = Container { id: sandbox.id("redis"), bundle, sandbox };
    container.create();
    container.call(&["start"]).ok();
    let stream = waiting::until("Redis to listen", || TcpStream::connect(("127.0.0.1", port)).ok());
    stream.set_read_timeout(Some(waiting::PATIENCE)).unwrap();
    let mut client = resp::Client::new(stream);
    assert_eq!(client.call(&["SET", "bird", "nightingale"]).unwrap(), "OK");

    let refused = checkpoint(&container, &[]).run();
    assert!(refused.one_line_error().contains("--tcp-established"), "{refused}");
    assert_eq!(client.call(&["GET", "bird"]).unwrap(), "nightingale", "it goes on after a checkpoint that failed");

    let connections = ["--tcp-established"];
    checkpoint(&container, &connections).run().ok();
    restore(&container, &connections).run().ok();
    assert_eq!(client.call(&["GET", "bird"]).unwrap(), "nightingale");
    assert_eq!(client.call(&["APPEND", "bird", "s"]).unwrap(), "12");
    away(&container);
}

#[test]
#[ignore = "runs in the guest: tests/guest/run"]
fn pipes_become_those_of_the_restore_and_its_status_the_programs() {
    guest::insist();
    let script = "touch /tmp/up; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo gone on; exit 5";
    let container = Container::new(|bundle| bundle.sh(script));
    let running = container.oci(&["run", "-b"]).arg(container.bundle.path()).arg(&container.id).start();
    container.bundle.await_up();
    checkpoint(&container, &[]).run().ok();
    // Whoever waited for it learns that it was killed.
    running.finish().expect(137);
    assert_eq!(container.sandbox.containers(), Vec::<String>::new());
    fs::write(container.bundle.rootfs().join("tmp/go"), "").unwrap();
    let restored = container.oci(&["restore", "--image-path"]).arg(images(&container)).arg("-b");
    let output = restored.arg(container.bundle.path()).arg(&container.id).run().expect(5);
    assert_eq!(output.stdout, "gone on\n");
    assert_eq!(container.sandbox.containers(), Vec::<String>::new(), "a foreground restore deletes");
}

#[test]
#[ignore = "runs in the guest: tests/guest/run"]
fn output_that_goes_to_a_file_goes_to_the_restores_file() {
    guest::insist();
    let container = Container::new(|bundle| {
        bundle.sh("touch /tmp/up; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo gone on; exit 5");
    });
    let [first, second] = ["first", "second"].map(|name| container.sandbox.path(name));
    let redirected = |command: &[&str], to: &Path| {
        let script = "out=$1; shift; exec \"$@\" > \"$out\"";
        let shell = container.sandbox.command("sh").args(["-c", script, "sh"]).arg(to);
        shell.arg(brood_tests::binaries::oci()).arg("--root").arg(container.sandbox.root()).args(command)
    };
    let bundle = container.bundle.path().to_str().unwrap();
    let running = redirected(&["run", "-b", bundle, &container.id], &first).start();
    container.bundle.await_up();
    checkpoint(&container, &[]).run().ok();
    running.finish().expect(137);
    fs::write(container.bundle.rootfs().join("tmp/go"), "").unwrap();
    let images = images(&container);
    let restore = ["restore", "-b", bundle, "--image-path", images.to_str().unwrap(), &container.id];
    redirected(&restore, &second).run().expect(5);
    assert_eq!(fs::read_to_string(&second).unwrap(), "gone on\n");
    assert_eq!(fs::read_to_string(&first).unwrap(), "");
}

#[test]
#[ignore = "runs in the guest: tests/guest/run"]
fn a_terminal_comes_back_by_the_console_socket() {
    guest::insist();
    let container = Container::new(|bundle| {
        bundle.sh("while read line; do echo got $line; done");
        bundle.config["process"]["terminal"] = json!(true);
    });
    let path = container.sandbox.path("console.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let console = ["--console-socket", path.to_str().unwrap()];
    let create = container.oci(&["create"]).args(console).arg("-b").arg(container.bundle.path()).arg(&container.id);
    let create = create.start();
    let first = receive(&listener);
    create.finish().expect(0);
    container.call(&["start"]).ok();
    checkpoint(&container, &[]).run().ok();
    drop(first);

    let detached = restore(&container, &[]).run();
    assert!(detached.one_line_error().contains("without setting console socket"), "{detached}");
    let restoring = restore(&container, &console).start();
    let mut terminal = fs::File::from(receive(&listener));
    restoring.finish().expect(0);
    std::io::Write::write_all(&mut terminal, b"hello\n").unwrap();
    let mut text = String::new();
    while !text.contains("got hello") {
        let mut buffer = [0; 256];
        let length = std::io::Read::read(&mut terminal, &mut buffer).unwrap();
        text.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    away(&container);
}

#[test]
#[ignore = "runs in the guest: tests/guest/run"]
fn hooks_run_as_with_runc() {
    guest::insist();
    let sandbox = Sandbox::new();
    let log = sandbox.path("log");
    let container = up(|bundle| {
        for kind in ["prestart", "createRuntime", "poststart", "poststop"] {
            let script = format!("cat > /dev/null; echo {kind} >> {}", log.display());
            bundle.config["hooks"][kind] = json!([{ "path": "/bin/sh", "args": ["sh", "-c", script] }]);
        }
    });
    checkpoint(&container, &[]).run().ok();
    goes_on(&container, &[]);
    away(&container);
    let seen = fs::read_to_string(&log).unwrap();
    let created = ["prestart", "createRuntime", "poststart", "poststop"];
    let restored = ["prestart", "createRuntime", "poststop"];
    assert_eq!(seen.lines().collect::<Vec<_>>(), [&created[..], &restored[..]].concat());
}

#[test]
#[ignore = "runs in the guest: tests/guest/run"]
fn a_hook_that_fails_undoes_the_restore() {
    let mut container = up(|_| {});
    checkpoint(&container, &[]).run().ok();
    container.bundle.config["hooks"]["createRuntime"] = json!([{ "path": "/bin/sh", "args": ["sh", "-c", "exit 3"] }]);
    container.bundle.write();
    let refused = restore(&container, &[]).run();
    assert!(refused.one_line_error().contains("createRuntime hook #0: /bin/sh: exit status 3"), "{refused}");
    assert_eq!(container.sandbox.containers(), Vec::<String>::new());
}

/// Memory comes when it is asked for, from the checkpoint that waits as its server.
#[test]
#[ignore = "runs in the guest: tests/guest/run"]
fn lazy_pages_come_from_the_checkpoint() {
    let container = up(|_| {});
    let ready = container.sandbox.path("ready");
    Cmd::new("mkfifo").arg(&ready).run().ok();
    let id = &container.id;
    let root = container.sandbox.root();
    let work = container.sandbox.path("work");
    fs::create_dir(&work).unwrap();
    let before = count(&container).unwrap();
    let script = format!(
        "exec {} --root {} checkpoint --lazy-pages --page-server 127.0.0.1:27277 --status-fd 3 --image-path {} {id} 3> {}",
        brood_tests::binaries::oci().display(),
        root.display(),
        images(&container).display(),
        ready.display()
    );
    let server = container.sandbox.command("bash").args(["-c", &script]).start();
    assert_eq!(fs::read(&ready).unwrap(), [0], "the server of lazy pages listens");
    let pages = container.sandbox.command("criu").args(["lazy-pages", "--page-server", "--address", "127.0.0.1"]);
    let pages = pages.args(["--port", "27277", "-W"]).arg(&work).arg("-D").arg(images(&container)).start();
    waiting::until("the socket of lazy pages", || work.join("lazy-pages.socket").exists().then_some(()));
    let other = container.sandbox.id("other");
    let restored = container.oci(&["restore", "-d", "--lazy-pages", "--work-path"]).arg(&work).arg("--image-path");
    restored.arg(images(&container)).arg("-b").arg(container.bundle.path()).arg(&other).run().ok();
    pages.finish().expect(0);
    server.finish().expect(0);
    counted_to(&container, before + 2);
    let pid = i32::try_from(container.sandbox.record(&other, "init/pid")["pid"].as_i64().unwrap()).unwrap();
    assert_eq!(procfs::process(pid).map(|process| process.pid), Some(pid));
    container.oci(&["kill", &other, "KILL"]).run().ok();
    waiting::gone(pid);
    container.oci(&["delete", &other]).run().ok();
}

#[test]
#[ignore = "runs in the guest: tests/guest/run"]
fn images_that_lead_out_of_the_root_are_refused() {
    let container = up(|bundle| {
        let source = bundle.path().to_owned();
        config::add_mount(
            &mut bundle.config,
            json!({ "destination": "/data", "type": "bind", "source": source, "options": ["bind"] }),
        );
    });
    checkpoint(&container, &[]).run().ok();
    let data = container.bundle.rootfs().join("data");
    let outside = container.sandbox.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::remove_dir(&data).unwrap();
    std::os::unix::fs::symlink(&outside, &data).unwrap();
    let refused = restore(&container, &[]).run();
    assert!(refused.one_line_error().contains("a link of the root file system leads there"), "{refused}");
    fs::remove_file(&data).unwrap();

    let log = images(&container).join("restore.log");
    let victim = container.sandbox.path("victim");
    fs::write(&victim, "precious").unwrap();
    let _ = fs::remove_file(&log);
    std::os::unix::fs::symlink(&victim, &log).unwrap();
    let refused = restore(&container, &[]).run();
    assert!(refused.one_line_error().contains("restore.log: neither a regular file"), "{refused}");
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    fs::remove_file(&log).unwrap();
    goes_on(&container, &[]);
    away(&container);
}

#[test]
#[ignore = "runs in the guest: tests/guest/run"]
fn a_user_namespace_comes_back() {
    let container = up(|bundle| {
        fs::set_permissions(bundle.rootfs().join("tmp"), std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
        config::add_namespace(&mut bundle.config, "user");
        let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
        bundle.config["linux"]["uidMappings"] = map.clone();
        bundle.config["linux"]["gidMappings"] = map;
        Cmd::new("chown").args(["-R", "100000:100000"]).arg(bundle.rootfs()).run().ok();
    });
    // In its user namespace CRIU is nobody who could enter a directory of root's alone.
    fs::create_dir(images(&container)).unwrap();
    checkpoint(&container, &[]).run().ok();
    goes_on(&container, &[]);
    assert_eq!(procfs::status(container.pid(), "Uid").unwrap().split_whitespace().next(), Some("100000"));
    away(&container);
}

/// Named checkpoints, as containerd 0.2 had them, through the daemon.
#[test]
#[ignore = "runs in the guest: tests/guest/run"]
fn the_daemon_keeps_checkpoints_by_name() {
    guest::insist();
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &[]);
    let mut bundle = Bundle::busybox(&sandbox, "bundle");
    bundle.sh(counting::PROGRAM);
    bundle.write();
    let id = sandbox.id("box");
    let brood = |args: &[&str]| daemon.brood().args(args);
    let checkpoint = |args: &[&str]| brood(&["checkpoint"]).args(args);
    let counted_to = |least: u64| counting::counted_to(&bundle, least);
    brood(&["run", "-d", "--name", &id, "--bundle"]).arg(bundle.path()).run().ok();
    counted_to(2);

    checkpoint(&["create", &id, "first"]).run().ok();
    let after_first = counting::count(&bundle).unwrap();
    counted_to(after_first + 2);
    let taken = checkpoint(&["create", &id, "first"]).run();
    assert!(taken.one_line_error().contains("file exists"), "{taken}");
    checkpoint(&["create", "--exit", "--tcp", &id, "second"]).run().ok();
    brood(&["wait", &id]).run().expect(137);
    let refused = checkpoint(&["create", &id, "third"]).run();
    assert!(refused.one_line_error().contains("it is stopped"), "{refused}");
    let table = checkpoint(&["list", &id]).run().ok();
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    let wanted = [
        vec!["NAME", "TCP", "UNIX", "SOCKETS", "SHELL"],
        vec!["first", "false", "false", "false"],
        vec!["second", "true", "false", "false"],
    ];
    assert_eq!(rows, wanted);
    checkpoint(&["rm", &id, "first"]).run().ok();
    assert_eq!(checkpoint(&["list", &id]).run().ok().lines().count(), 2);
    assert!(bundle.path().join("checkpoints/second/checkpoint.json").is_file());
    brood(&["rm", &id]).run().ok();

    let before = counting::count(&bundle).unwrap();
    let restore = |name: &str| brood(&["restore", "--name", &id, "--bundle"]).arg(bundle.path()).arg(name);
    let none = restore("first").run();
    assert!(none.one_line_error().contains("no such file or directory"), "{none}");
    assert_eq!(sandbox.containers(), Vec::<String>::new());
    restore("second").run().ok();
    let told = brood(&["events", "--format", "json"]).run().ok();
    let told: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<&str> = told.iter().map(|event| event["type"].as_str().unwrap()).collect();
    let first = ["create", "start-container", "checkpoint", "checkpoint", "exit", "delete"];
    assert_eq!(told, [&first[..], &["create", "restore", "start-container"]].concat());
    let after = counted_to(before + 2);
    assert!(after < before + 1000 && before > 1, "{before}, then {after}");
    assert_eq!(brood(&["exec", &id, "cat", "/proc/1/comm"]).run().ok(), "sh\n");
    let state: Value = serde_json::from_str(&brood(&["state", &id]).run().ok()).unwrap();
    assert_eq!(state["status"], "running");
    brood(&["kill", "--signal", "KILL", &id]).run().ok();
    brood(&["wait", &id]).run().expect(137);
    brood(&["rm", &id]).run().ok();
}
