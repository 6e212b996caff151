//! Clients that keep to no rule. Whatever one of them does, the supervisor lives, its memory is bounded, and others are
//! served meanwhile. (The table of limits: docs/rpc.md.)

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use brood_tests::wire::{self, GET, Heard, LIST, Message, VERSION, Wire, tag};
use brood_tests::{Daemon, Sandbox, procfs, waiting};

/// How much more memory than before the supervisor may hold, kB: large messages may take 128 MiB, and that is the most
/// that one of these clients could come by. Without a bound each would take several times as much.
const GROWTH_KB_MAX: u64 = 192 * 1024;

/// A daemon whose supervisor is watched.
struct Watched<'a> {
    daemon: Daemon<'a>,
    supervisor: i32,
    before_kb: u64,
}

impl<'a> Watched<'a> {
    fn start(sandbox: &'a Sandbox) -> Self {
        let daemon = Daemon::start(sandbox, &["--zygotes", "1"]);
        let supervisor = daemon.supervisor().pid;
        Self { daemon, supervisor, before_kb: peak_kb(supervisor) }
    }

    fn connect(&self) -> Wire {
        Wire::connect(&self.daemon.socket()).expect("the daemon listens")
    }

    fn connect_silently(&self) -> UnixStream {
        let stream = UnixStream::connect(self.daemon.socket()).expect("the daemon listens");
        stream.set_read_timeout(Some(waiting::PATIENCE)).unwrap();
        stream
    }

    /// Somebody else's request is answered, a container runs from beginning to end, and memory is as it was, about.
    #[track_caller]
    fn serves(&self) {
        self.daemon.brood().args(["run", "--rm", "--", "true"]).run().ok();
        let grown = peak_kb(self.supervisor).saturating_sub(self.before_kb);
        assert!(grown < GROWTH_KB_MAX, "the supervisor has grown by {grown} kB");
        assert_eq!(self.daemon.supervisor().pid, self.supervisor, "it is another supervisor");
    }
}

/// Reads until the daemon has hung up; false when it does not in time.
fn hung_up(stream: &mut UnixStream) -> bool {
    match stream.read_to_end(&mut Vec::new()) {
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

/// The most memory that a process has had.
fn peak_kb(pid: i32) -> u64 {
    let text = procfs::status(pid, "VmHWM").expect("the process is there");
    text.trim_end_matches(" kB").parse().expect("a number of kB")
}

#[test]
fn a_promise_that_is_itself_is_refused() {
    let sandbox = Sandbox::new();
    let watched = Watched::start(&sandbox);
    watched.daemon.brood().args(["run", "--rm", "--", "true"]).run().ok();
    let mut client = watched.connect();
    // Whoever follows this promise to its end goes round for ever.
    let (events, _) = client.events(5, 2, true);
    let (mut resolve, body) = Message::rpc(tag::RESOLVE, 1, 1);
    resolve.set(body, 5);
    let descriptor = resolve.structure(body + 1, 1, 1);
    resolve.set(descriptor, 2 | 5 << 32);
    let (again, _) = client.events(5, 2, true);
    client.send_bytes(&[events.bytes(), resolve.bytes(), again.bytes()].concat()).unwrap();
    watched.serves();
}

#[test]
fn disembargo_results_elsewhere_and_other_levels_are_refused() {
    let sandbox = Sandbox::new();
    let watched = Watched::start(&sandbox);
    for tag in [tag::DISEMBARGO, 0, 7, 9, 10, 11, 12, 14, 999] {
        let mut client = watched.connect();
        let _ = client.send(&Message::rpc(tag, 1, 1).0);
        // It answers `unimplemented`, or gives up the connection; it may not do what was asked for.
        let heard = client.version();
        let silent = heard.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        assert!(!silent, "no answer to a message of kind {tag}");
    }
    let mut client = watched.connect();
    let (mut call, _, question) = client.call(VERSION);
    const CALL: usize = 3; // after the pointer to the message, its word and its pointer
    call.set(CALL, u64::from(question) | 1 << 48); // sendResultsTo.yourself
    client.send(&call).unwrap();
    assert!(client.hung_up(), "results were kept for nobody");
    watched.serves();
}

#[test]
fn cyclic_and_deep_messages_are_read_to_a_bounded_depth() {
    let sandbox = Sandbox::new();
    let watched = Watched::start(&sandbox);
    let mut client = watched.connect();
    // `labels` of a `list` request is a list of structs that point back to their list's parent; then 100,000 levels.
    let (mut cyclic, params, _) = client.call(LIST);
    cyclic.point_back(params, params, 0, 2);
    client.send(&cyclic).unwrap();
    let (mut deep, params, _) = client.call(LIST);
    let mut at = deep.structure(params, 0, 2);
    for _ in 0..100_000 {
        at = deep.structure(at, 0, 2);
    }
    client.send(&deep).unwrap();
    // A thousand labels in one word: a list of structs without content.
    let (mut wide, params, question) = client.call(LIST);
    let request = wide.structure(params, 0, 2);
    wide.list(request, 1 << 20, 0, 0);
    client.send(&wide).unwrap();
    loop {
        match client.hear().unwrap() {
            Some(Heard::Results(id) | Heard::Exception(id)) if id == question => break,
            Some(Heard::Abort) | None => break,
            Some(_) => {}
        }
    }
    watched.serves();
}

#[test]
fn random_bytes_end_their_connection_alone() {
    let sandbox = Sandbox::new();
    let watched = Watched::start(&sandbox);
    let mut bystander = watched.connect();
    // xorshift64: the same bytes in every run.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..300 {
        let (call, _) = bystander.events(3, 1, true);
        let mut bytes = call.bytes();
        // Whole noise, and a good message with a few bytes changed behind the header.
        let changes = if round % 3 == 0 { bytes.len() * 4 } else { 1 + random() as usize % 4 };
        for _ in 0..changes {
            let at = if round % 3 == 0 { 0 } else { 8 } + random() as usize % (bytes.len() - 8);
            bytes[at] = random() as u8;
        }
        if let Ok(mut client) = Wire::connect(&watched.daemon.socket()) {
            let _ = client.send_bytes(&bytes);
        }
    }
    assert!(bystander.version().unwrap(), "another connection has ended too");
    watched.serves();
}

#[test]
fn a_flood_without_reading_is_not_read_on() {
    const REQUESTS: usize = 400_000;
    let sandbox = Sandbox::new();
    let watched = Watched::start(&sandbox);
    let mut client = watched.connect();
    let mut stuck = false;
    for _ in 0..REQUESTS {
        let (message, _, _) = client.call(VERSION);
        if client.send(&message).is_err() {
            stuck = true;
            break;
        }
    }
    assert!(stuck, "the daemon took all {REQUESTS} requests and kept the answers");
    watched.serves();
}

#[test]
fn a_flood_from_many_starves_nobody() {
    let sandbox = Sandbox::new();
    let watched = Watched::start(&sandbox);
    let socket = watched.daemon.socket();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let stopped = std::sync::Mutex::new(stopped);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let (socket, stopped) = (&socket, &stopped);
            scope.spawn(move || {
                let mut client = Wire::connect(socket).unwrap();
                let ended = || !matches!(stopped.lock().unwrap().try_recv(), Err(std::sync::mpsc::TryRecvError::Empty));
                while !ended() {
                    for _ in 0..256 {
                        let (message, _, _) = client.call(LIST);
                        client.send(&message).expect("a client that reads is served");
                    }
                    for _ in 0..256 {
                        client.hear().expect("an answer").expect("a connection");
                    }
                }
            });
        }
        for _ in 0..3 {
            watched.serves();
        }
        drop(stop);
    });
}

#[test]
fn handles_that_are_hoarded_have_a_bound() {
    const HANDLES: usize = 100_000;
    let sandbox = Sandbox::new();
    let watched = Watched::start(&sandbox);
    let id = sandbox.id("box");
    watched.daemon.brood().args(["run", "-d", "--name", &id, "--", "sleep", "1000"]).run().ok();
    let (mut handles, mut refused, mut client) = (0, 0, watched.connect());
    let mut ask = || -> std::io::Result<bool> {
        let (mut message, params, _) = client.call(GET);
        let request = message.structure(params, 0, 2);
        message.text(request, &id);
        if client.send(&message).is_err() {
            return Ok(false);
        }
        loop {
            match client.hear()? {
                Some(Heard::Results(0) | Heard::Other) => continue,
                Some(Heard::Results(_)) => handles += 1,
                Some(Heard::Exception(_)) => refused += 1,
                Some(Heard::Abort) | None => return Ok(false),
            }
            return Ok(true);
        }
    };
    // Neither `finish` nor `release` is ever said.
    // The connection stays, or is ended.
    let kept_up = (0..HANDLES).all(|_| ask().expect("an answer in time"));
    assert!(!kept_up || refused > 0, "all {handles} handles were given out");
    watched.serves();
    watched.daemon.brood().args(["rm", "--force", &id]).run().ok();
}

#[test]
fn handles_that_are_finished_and_never_released_are_refused_in_the_end() {
    let sandbox = Sandbox::new();
    let watched = Watched::start(&sandbox);
    let mut client = watched.connect();
    let mut granted = 0;
    // A handle on what is not there is one, too.
    let refused = (0..100_000).any(|_| {
        let (mut message, params, question) = client.call(GET);
        let request = message.structure(params, 0, 2);
        message.text(request, "nobody");
        client.send(&message).unwrap();
        let refused = loop {
            match client.hear().unwrap().expect("the connection stays") {
                Heard::Results(id) if id == question => break false,
                Heard::Exception(id) if id == question => break true,
                _ => {}
            }
        };
        granted += 1;
        let (mut finish, body) = Message::rpc(tag::FINISH, 1, 0);
        finish.set(body, u64::from(question) | 1 << 32); // releaseResultCaps, whose default is true: false
        client.send(&finish).unwrap();
        refused
    });
    assert!(refused, "{granted} handles were given out");
    assert!(client.version().unwrap(), "what needs no handle goes on");
    watched.serves();
}

#[test]
fn subscriptions_of_one_connection_have_a_bound() {
    let sandbox = Sandbox::new();
    let watched = Watched::start(&sandbox);
    let mut client = watched.connect();
    // None of the sinks ever answers.
    let questions: Vec<u32> = (1..=1000)
        .map(|sink| {
            let (message, question) = client.events(sink, 1, true);
            client.send(&message).unwrap();
            question
        })
        .collect();
    let last = *questions.last().unwrap();
    let refused = loop {
        match client.hear().unwrap() {
            Some(Heard::Results(id)) if id == last => break false,
            Some(Heard::Exception(id)) if id == last => break true,
            Some(Heard::Abort) | None => break true,
            Some(_) => {}
        }
    };
    assert!(refused, "a thousand subscriptions were granted to one client");
    watched.serves();
}

#[test]
fn a_message_that_claims_too_much_is_refused_by_its_header() {
    let sandbox = Sandbox::new();
    let watched = Watched::start(&sandbox);
    for words in [8 << 20, u32::MAX] {
        let mut client = watched.connect();
        client.send_bytes(&wire::header(words)).unwrap();
        assert!(client.hung_up(), "it waits for {words} words");
    }
    // 512 segments; and none.
    for segments in [512u32, u32::MAX] {
        let mut client = watched.connect();
        client.send_bytes(&[segments.to_le_bytes(), [0; 4]].concat()).unwrap();
        assert!(client.hung_up(), "it accepts {segments} segments");
    }
    watched.serves();
}

#[test]
fn half_a_message_is_waited_for_in_vain_but_not_for_long() {
    const PEERS: usize = 24;
    let sandbox = Sandbox::new();
    let watched = Watched::start(&sandbox);
    let begin = || {
        let mut client = watched.connect();
        // 24 MiB are announced; what comes is 4 of them, as far as the daemon takes it.
        client.send_bytes(&wire::header(3 << 20)).unwrap();
        let _ = client.send_bytes(&vec![0; 4 << 20]);
        client
    };
    let peers: Vec<Wire> = (0..PEERS).map(|_| begin()).collect();
    watched.serves();
    for mut peer in peers {
        assert!(peer.hung_up(), "half a message is waited for");
    }
    watched.serves();
}

#[test]
fn peers_that_never_say_a_word_are_let_go() {
    let sandbox = Sandbox::new();
    let watched = Watched::start(&sandbox);
    let mut silent: Vec<UnixStream> = (0..5_000).map(|_| watched.connect_silently()).collect();
    watched.serves();
    let held = procfs::descriptors(watched.supervisor).len();
    assert!(held < 2_000, "{held} descriptors for one process that says nothing");
    for peer in &mut silent {
        assert!(hung_up(peer), "a peer that never said a word is kept");
    }
    watched.serves();
}

#[test]
fn a_client_that_is_quiet_after_its_first_word_stays() {
    let sandbox = Sandbox::new();
    let watched = Watched::start(&sandbox);
    let mut quiet = watched.connect();
    assert!(quiet.version().unwrap());
    // One that never says a word is let go: by then the quiet one would have been.
    let mut silent = watched.connect_silently();
    assert!(hung_up(&mut silent));
    assert!(quiet.version().unwrap(), "a handle lives as long as its connection, and that as long as its client");
}

#[test]
fn the_descriptor_socket_cannot_be_occupied() {
    let sandbox = Sandbox::new();
    let watched = Watched::start(&sandbox);
    let path = sandbox.root().join("stdio.sock");
    let connect = || {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        connect(&socket, &SocketAddrUnix::new(&path).unwrap()).expect("it listens");
        socket
    };
    let idle: Vec<_> = (0..5_000).map(|_| connect()).collect();
    // Its output goes through a ticket.
    let said = watched.daemon.brood().args(["run", "--rm", "--", "echo", "through"]).run().ok();
    assert_eq!(said, "through\n");
    let held = procfs::descriptors(watched.supervisor).len();
    assert!(held < 2_000, "{held} descriptors for peers that hand over none");
    drop(idle);
    watched.serves();
}

#[test]
fn a_client_that_is_stopped_in_the_middle_of_a_word_costs_only_itself() {
    let sandbox = Sandbox::new();
    let watched = Watched::start(&sandbox);
    let mut half = watched.connect_silently();
    half.write_all(&[0, 0, 0]).unwrap();
    watched.serves();
    assert!(hung_up(&mut half), "the rest of a word is waited for");
}
