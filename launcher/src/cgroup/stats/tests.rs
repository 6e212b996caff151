//! The kernel's own texts, and a real cgroup.

use super::*;

#[test]
fn flat_files_are_read_by_key() {
    let map = FlatMap::new("anon 4096\nfile 12288\nbroken\nnumber x\n");
    assert_eq!(map.iter().collect::<Vec<_>>(), [("anon", 4096), ("file", 12288)]);
    assert_eq!((map.get("file"), map.get("fil"), map.get("broken")), (Some(12288), None, None));
    for (text, number) in [("7", Some(7)), ("max", Some(u64::MAX)), ("-1", Some(0)), ("", None), ("7 8", None)] {
        assert_eq!(parse::number(text), number, "{text:?}");
    }
}

#[test]
fn cpu_time_is_in_nanoseconds_whoever_counts() {
    let v2 = "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnice_usec 0\n";
    let cpu = parse::cpu_stat(v2).unwrap();
    assert_eq!((cpu.total_ns, cpu.user_ns, cpu.kernel_ns), (5000, 3000, 2000));
    assert_eq!(parse::throttling(v2), None);
    let limited = format!("{v2}nr_periods 9\nnr_throttled 4\nthrottled_usec 7\nnr_bursts 1\nburst_usec 6\n");
    let throttling = Throttling {
        periods: 9,
        throttled_periods: 4,
        throttled_ns: 7000,
        burst_periods: Some(1),
        burst_ns: Some(6000),
    };
    assert_eq!(parse::throttling(&limited), Some(throttling));
    let v1 = "nr_periods 9\nnr_throttled 4\nthrottled_time 7000\n";
    assert_eq!(parse::throttling(v1), Some(Throttling { burst_periods: None, burst_ns: None, ..throttling }));
    assert_eq!(parse::cpuacct_stat("user 3\nsystem 2\n"), Some((30_000_000, 20_000_000)));
    let all = "cpu user system\n0 10 20\n1 30 40\n";
    assert_eq!(parse::cpuacct_usage_all(all), (vec![10, 30], vec![20, 40]));
    assert_eq!(parse::cpuacct_usage_all("0 10 20\n"), (vec![], vec![]));
    assert_eq!(parse::ranges("0-2,7"), [0, 1, 2, 7]);
    assert!(parse::ranges("").is_empty());
}

#[test]
fn block_io_has_the_words_of_v1_on_v2_too() {
    let entry = |operation: &str, value| BlockIoEntry { major: 8, minor: 16, operation: operation.to_owned(), value };
    assert_eq!(parse::blkio("8:16 Read 5\n8:16 Total 5\nTotal 5\n"), [entry("Read", 5), entry("Total", 5)]);
    assert_eq!(parse::blkio("8:16 5\n"), [entry("", 5)]);
    let io = parse::io_stat("8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6 cost.usage=7\n8:0 \nx rbytes=1\n");
    assert_eq!(io.service_bytes, [entry("Read", 1), entry("Write", 2), entry("Discard", 5)]);
    assert_eq!(io.serviced, [entry("Read", 3), entry("Write", 4), entry("Discard", 6)]);
}

#[test]
fn devices_and_pressure_are_understood() {
    let count = |handles, objects| RdmaCount { handles, objects };
    let text = "mlx4_0 hca_handle=2 hca_object=2000\nocrdma1 hca_handle=3 hca_object=max\nbroken hca_handle=1";
    let all: Vec<_> = parse::rdma(text).collect();
    assert_eq!(all, [("mlx4_0", count(2, 2000)), ("ocrdma1", count(3, u32::MAX))]);
    let some = "some avg10=1.50 avg60=0.25 avg300=0.00 total=42";
    let stall = Stall { avg10: 1.5, avg60: 0.25, avg300: 0.0, total_us: 42 };
    assert_eq!(parse::pressure(some), Some(Pressure { some: stall, full: Stall::default() }));
    let both = parse::pressure(&format!("{some}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n")).unwrap();
    assert_eq!((both.some, both.full.total_us), (stall, 7));
    assert_eq!(parse::pressure(""), None);
    let sizes = ["hugepages-64kB", "hugepages-2048kB", "hugepages-1048576kB"].map(parse::huge_page_size);
    assert_eq!(sizes.map(Option::unwrap), ["64KB", "2MB", "1GB"]);
    assert_eq!(parse::huge_page_size("hugepages"), None);
}

#[test]
fn no_limit_is_told_from_a_limit_on_both_versions() {
    let bound = |limit| Counter { limit, ..Counter::default() }.bound();
    // v1 with pages of 4 KiB and of 64 KiB, and v2.
    for none in [None, Some(9_223_372_036_854_771_712), Some(9_223_372_036_854_710_272), Some(u64::MAX)] {
        assert_eq!(bound(none), None);
    }
    assert_eq!(bound(Some(1 << 40)), Some(1 << 40));
}

#[test]
fn what_is_gone_or_was_never_there_has_no_figures() {
    assert_eq!(Cgroups::default().stats(), Stats::default());
    let gone = super::super::Directory {
        path: std::path::Path::new("/sys/fs/cgroup/nonesuch").into(),
        version: Version::V2,
        mount_point: std::path::Path::new("/sys/fs/cgroup").into(),
        controllers: ["memory".to_owned()].into(),
        made: None,
        inode: None,
    };
    let cgroups = Cgroups { directories: vec![gone], scope: None };
    assert_eq!(cgroups.stats(), Stats::default());
    assert_eq!((cgroups.out_of_memory(), cgroups.totals()), (None, Totals::default()));
}

#[test]
fn a_live_cgroup_tells_what_its_process_uses() {
    let mut cgroups = super::super::tests::planned("stats", "a", false);
    cgroups.make().unwrap();
    let mut child = super::super::tests::member(&cgroups);
    let stats = cgroups.stats();
    let memory = stats.memory.expect("the memory controller is somewhere");
    assert!(memory.cache().is_some() && memory.usage.bound().is_none(), "{memory:?}");
    assert_eq!((memory.oom_kills, cgroups.out_of_memory()), (Some(0), Some(OutOfMemory::default())));
    assert!(stats.cpu.is_some());
    assert_eq!(stats.pids, Some(PidsStats { current: 1, limit: None }));
    drop(child.stdin.take());
    child.wait().unwrap();
    let ended = cgroups.stats();
    assert_eq!(ended.pids.unwrap().current, 0);
    let cpu = ended.cpu.map(|cpu| cpu.total_ns);
    assert!(cpu > Some(0));
    let totals = cgroups.totals();
    assert_eq!((totals.memory_peak, totals.out_of_memory), (ended.memory.unwrap().usage.peak, cgroups.out_of_memory()));
    assert_eq!(totals.cpu_ns, cpu);
    let watch = cgroups.oom_watch().unwrap();
    assert!(cgroups.oom_watch_path().unwrap().is_file());
    let event = watch.eventfd().unwrap();
    assert_eq!(event.is_some(), matches!(watch, OomWatch::Eventfd(_)));
    cgroups.kill_and_remove(std::time::Duration::from_secs(5)).unwrap();
    if let Some(event) = event {
        // The cgroup's end is a notice too: who waits for it always wakes.
        let deadline = rustix::event::Timespec { tv_sec: 5, tv_nsec: 0 };
        let mut poll = [rustix::event::PollFd::new(&event, rustix::event::PollFlags::IN)];
        assert_eq!(rustix::event::poll(&mut poll, Some(&deadline)), Ok(1));
    }
}
