//! What an image puts in the place of its terminal's files leads nowhere (docs/security.md).

use std::fs;
use std::os::unix::fs::symlink;

use brood_tests::{Bundle, Face, Sandbox};
use serde_json::json;

/// Runs with a terminal through every face, in a rootfs whose own /dev `spoil` has prepared. Nothing may appear in the
/// directory outside that it gets; the program must not run.
fn refused(spoil: impl Fn(&mut Bundle, &std::path::Path)) {
    for &face in Face::all() {
        let sandbox = Sandbox::new();
        let outside = sandbox.path("outside");
        fs::create_dir(&outside).unwrap();
        let mut bundle = Bundle::busybox(&sandbox, "bundle");
        let mounts = bundle.config["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| mount["destination"] != "/dev");
        bundle.config["process"]["terminal"] = json!(true);
        bundle.sh("echo got in");
        spoil(&mut bundle, &outside);
        bundle.write();
        let command = face.command(&sandbox, &bundle, &sandbox.id("box"));
        let command = if face == Face::Brood { command.arg("--tty") } else { command };
        let (running, _terminal) = command.start_on_terminal();
        let output = running.finish();
        assert_ne!(output.code(), 0, "{face:?}: {output}");
        assert!(!output.stdout.contains("got in"), "{face:?}: {output}");
        assert!(format!("{output}").contains("process.terminal"), "{face:?}: {output}");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{face:?} touched the host");
        assert_eq!(sandbox.containers(), Vec::<String>::new(), "{face:?} left state behind");
    }
}

/// CVE-2026-88264, CVE-2025-52565: a file that root owns would be made where the link leads.
#[test]
fn a_console_that_is_a_link_is_refused() {
    refused(|bundle, outside| symlink(outside.join("console"), bundle.rootfs().join("dev/console")).unwrap());
}

/// CVE-2025-52565: a volume in place of the devpts, with a file, or a link to the host's, as its multiplexer.
#[test]
fn a_multiplexer_that_is_none_is_refused() {
    for link in [true, false] {
        refused(|bundle, _| {
            let fake = bundle.path().join("pts");
            fs::create_dir(&fake).unwrap();
            if link {
                symlink("/dev/ptmx", fake.join("ptmx")).unwrap();
            } else {
                fs::write(fake.join("ptmx"), "").unwrap();
            }
            fs::write(fake.join("0"), "").unwrap();
            let mounts = bundle.config["mounts"].as_array_mut().unwrap();
            mounts.retain(|mount| mount["destination"] != "/dev/pts");
            mounts.push(json!({ "destination": "/dev/pts", "type": "bind", "source": fake, "options": ["bind"] }));
        });
    }
}
