//! `linux.netDevices`: devices of the host's that move into the container. The host is a network namespace of the test's own.
//!
//! `BROOD_OCI_UNDER_TEST=runc cargo test -p brood-tests --test network_devices` asks the same of runc 1.4 and newer.

use brood_tests::{Bundle, Cmd, Face, Sandbox, binaries, config, guest};
use serde_json::{Value, json};

/// Makes the device of the first argument, gives it addresses, and becomes the runtime. What is left on the host is
/// printed after its end.
const HOST: &str = "ip link add bt0 type $1 && ip addr add 10.9.8.7/24 dev bt0 && \
    ip -6 addr add fd00:9::7/64 dev bt0 nodad && ip link set bt0 up || exit 99
if ip link show bt1 > /dev/null 2>&1; then ip link set bt1 up; fi
shift; \"$@\"; status=$?; ip -o link; exit $status";

/// A device with a peer that stays behind.
const PAIR: &str = "veth peer name bt1";

fn on_host(face: Face, sandbox: &Sandbox, bundle: &Bundle, kind: &str) -> Cmd {
    bundle.write();
    let host = sandbox.command("unshare").args(["--net", "sh", "-c", HOST, "sh", kind]);
    let id = sandbox.id("box");
    match face {
        Face::Brood => host.arg(binaries::brood()).arg("--root").arg(sandbox.root()).args(["run", "--name", &id]),
        Face::Oci => host.arg(binaries::oci()).arg("--root").arg(sandbox.root()).args(["run", &id]),
    }
    .arg("--bundle")
    .arg(bundle.path())
}

/// Runs a script in a container with these devices, and gives what it and the host printed.
fn run(face: Face, edit: impl Fn(&mut Bundle), script: &str, devices: &Value) -> (Sandbox, brood_tests::Output) {
    run_with(PAIR, face, edit, script, devices)
}

/// The same with another kind of device.
fn run_with(
    kind: &str,
    face: Face,
    edit: impl Fn(&mut Bundle),
    script: &str,
    devices: &Value,
) -> (Sandbox, brood_tests::Output) {
    let sandbox = Sandbox::new();
    let mut bundle = Bundle::busybox(&sandbox, "bundle");
    bundle.sh(script);
    bundle.config["linux"]["netDevices"] = devices.clone();
    edit(&mut bundle);
    let output = on_host(face, &sandbox, &bundle, kind).run();
    (sandbox, output)
}

const SHOW: &str = "ip addr show dev eth7; echo END";

/// The device came with its addresses, and is up; on the host only its peer is left.
fn assert_moved(face: Face, output: brood_tests::Output) {
    let printed = output.ok();
    let (container, host) = printed.split_once("END").expect("the script came to its end");
    assert!(container.contains("inet 10.9.8.7/24"), "{face:?}: {printed}");
    assert!(container.contains("inet6 fd00:9::7/64"), "{face:?}: {printed}");
    let flags = container.split(['<', '>']).nth(1).unwrap_or_default();
    assert!(flags.split(',').any(|flag| flag == "UP"), "{face:?}: {printed}");
    assert!(!host.contains(" bt0"), "{face:?}: {printed}");
}

#[test]
fn a_device_moves_with_its_addresses_and_gets_its_new_name() {
    for &face in Face::all() {
        let edit = |bundle: &mut Bundle| config::add_namespace(&mut bundle.config, "network");
        let (_sandbox, output) = run(face, edit, SHOW, &json!({ "bt0": { "name": "eth7" } }));
        assert_moved(face, output);
    }
}

/// The kind that other runtimes' suites use, and few machines that test can load.
#[test]
#[ignore = "runs in the guest: tests/guest/run"]
fn a_dummy_device_moves() {
    guest::load_module("dummy");
    for &face in Face::all() {
        let edit = |bundle: &mut Bundle| config::add_namespace(&mut bundle.config, "network");
        let (_sandbox, output) = run_with("dummy", face, edit, SHOW, &json!({ "bt0": { "name": "eth7" } }));
        assert_moved(face, output);
    }
}

#[test]
fn it_moves_into_a_container_with_a_user_namespace() {
    for &face in Face::all() {
        let edit = |bundle: &mut Bundle| {
            config::add_namespace(&mut bundle.config, "network");
            config::add_namespace(&mut bundle.config, "user");
            let mapping = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
            bundle.config["linux"]["uidMappings"] = mapping.clone();
            bundle.config["linux"]["gidMappings"] = mapping;
            std::os::unix::fs::chown(bundle.rootfs(), Some(100_000), Some(100_000)).unwrap();
        };
        let (_sandbox, output) = run(face, edit, SHOW, &json!({ "bt0": { "name": "eth7" } }));
        assert_moved(face, output);
    }
}

#[test]
fn it_moves_into_a_joined_network_namespace_and_keeps_its_name() {
    for &face in Face::all() {
        let sandbox = Sandbox::new();
        let mut other = sandbox.command("unshare").args(["--net", "sh", "-c", "echo up; exec sleep 1000"]).start();
        other.output_until(|text| text.contains("up"));
        let path = format!("/proc/{}/ns/net", other.pid());
        let edit = |bundle: &mut Bundle| {
            config::push(&mut bundle.config["linux"]["namespaces"], json!({ "type": "network", "path": path }));
        };
        let (_sandbox, output) = run(face, edit, "ip addr show dev bt0; echo END", &json!({ "bt0": {} }));
        assert_moved(face, output);
        other.signal(rustix::process::Signal::KILL);
        other.finish();
    }
}

#[test]
fn what_cannot_be_moved_is_told_by_its_name() {
    let long = "n".repeat(16);
    let cases = [
        (json!({ "bt9": {} }), true, "linux.netDevices.bt9: find the device: no such device"),
        (json!({ "bt0": { "name": "lo" } }), true, "linux.netDevices.bt0: move it: file exists"),
        (json!({ "bt0": {} }), false, "linux.netDevices: needs a network namespace in linux.namespaces"),
        (json!({ "bt0": { "name": "a/b" } }), true, "linux.netDevices.bt0.name: not a name of a network device"),
        (json!({ "bt0": { "name": long } }), true, "linux.netDevices.bt0.name: not a name of a network device"),
        (json!({ "..": {} }), true, "linux.netDevices...: not a name of a network device"),
    ];
    for &face in Face::all() {
        for (devices, own_network, message) in &cases {
            let edit = |bundle: &mut Bundle| {
                if *own_network {
                    config::add_namespace(&mut bundle.config, "network");
                }
            };
            let (sandbox, output) = run(face, edit, "true", devices);
            assert_ne!(output.code(), 0, "{face:?}: {output}");
            if !binaries::oracle() {
                assert!(output.one_line_error().contains(message), "{face:?}: {output}");
            }
            assert_eq!(sandbox.containers(), Vec::<String>::new(), "{face:?}");
        }
    }
}
