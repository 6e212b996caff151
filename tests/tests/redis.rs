//! The walk-through of containerd 0.2's documentation (2016), with today's Redis: bundle, run, list, talk, kill.

use std::fs;
use std::net::TcpStream;

use brood_tests::{Daemon, Sandbox, redis, resp, waiting};

#[test]
fn the_walk_through_of_2016() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &[]);
    // The config shares the host's network, as it did then.
    let port = redis::free_port();
    let bundle = redis::bundle(&sandbox, port);
    let id = sandbox.id("redis");
    let brood = |args: &[&str]| daemon.brood().args(args);

    brood(&["run", "-d", "--name", &id, "--bundle"]).arg(bundle.path()).run().ok();

    let table = brood(&["list"]).run().ok();
    let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    let path = bundle.path().to_str().unwrap();
    assert_eq!(words, [vec!["ID", "PATH", "STATUS", "PROCESSES"], vec![&id, path, "running", "init"]]);

    let stream = waiting::until("Redis to listen", || TcpStream::connect(("127.0.0.1", port)).ok());
    let mut redis = resp::Client::new(stream);
    assert_eq!(redis.call(&["PING"]).unwrap(), "PONG");
    assert_eq!(redis.call(&["SET", "bird", "nightingale"]).unwrap(), "OK");
    assert_eq!(redis.call(&["GET", "bird"]).unwrap(), "nightingale");

    assert_state_on_disk(&sandbox, &id);

    brood(&["kill", &id]).run().ok();
    // Redis answers to SIGTERM by shutting down in order.
    brood(&["wait", &id]).run().expect(0);
    brood(&["rm", &id]).run().ok();
    assert_eq!(sandbox.containers(), Vec::<String>::new());
    assert_eq!(brood(&["list", "-q"]).run().ok(), "");
}

fn assert_state_on_disk(sandbox: &Sandbox, id: &str) {
    assert_eq!(sandbox.containers(), [id]);
    assert_eq!(sandbox.record(id, "state.json")["id"], id);
    assert_eq!(sandbox.record(id, "init/process.json")["args"][0], "redis-server");
    let pid = &sandbox.record(id, "init/pid")["pid"];
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().take(2).collect::<Vec<_>>(), ["1024", "1024"]);
}
