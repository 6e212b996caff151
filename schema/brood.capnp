@0xb7f1c9d2a45e8361;
# Brood's RPC surface: what clients in any language speak to `brood daemon` over its unix socket.
#
# Object capabilities: the bootstrap is a `Brood`; from it come `Container` and `Subscription` handles. A handle is
# valid as long as the connection; dropping a `Subscription` ends it, dropping a `Container` or `Process` changes nothing.
#
# Promise pipelining is the point: create -> start -> wait is ONE round trip, since `create` answers with a handle on
# which the next calls may be made before the answer has come.
#
# What a caller must expect (a taken name, a wrong state, a step that failed) is part of the result, as `Failure`.
# An RPC exception means a bug, an overload or a lost peer, and nothing else.
#
# Every call takes one request struct, so that fields can be added, with a `metadata` list for trace context and such.
# Times are nanoseconds since the epoch (UTC) unless their name says otherwise.

struct KeyValue {
  key @0 :Text;
  value @1 :Text;
}

interface Brood {
  # The bootstrap: everything on this node.

  version @0 (request :VersionRequest) -> (reply :VersionReply);
  # Who is there. Also the cheapest sign of life.

  create @1 (request :CreateRequest) -> (container :Container, outcome :Outcome);
  # Makes a container from a bundle: everything is set up, and its program waits to be started (`Container.start`);
  # with `request.start` it runs at once and never waits. The handle is there even when the creation failed: calls on
  # it then answer with the same failure, so that a pipelined caller loses nothing.

  get @2 (request :GetRequest) -> (container :Container, outcome :Outcome);
  # A handle on a container that exists already. As with `create`, the handle of a failed `get` answers with the failure.

  list @3 (request :ListRequest) -> (reply :ListReply);
  # The containers, sorted by ID.

  run @4 (request :RunRequest) -> (outcome :RunOutcome);
  # One shot: create, start, capture the output, wait, delete; nothing of the container is left when the answer comes.
  # The container is killed when the caller goes away before the answer.

  events @5 (request :EventsRequest, sink :EventSink) -> (subscription :Subscription);
  # Replays recorded events, follows new ones, or both, into the caller's sink.

  stdioTicket @6 (request :StdioTicketRequest) -> (reply :StdioTicketReply);
  # Prepares the hand-over of three descriptors (Cap'n Proto RPC cannot carry them): connect to the SEQPACKET unix socket
  # at `reply.path` and send ONE message that holds `reply.ticket` and, by SCM_RIGHTS, the descriptors for standard
  # input, output and error; or a single one, a connected unix stream socket, to which the process sends the master of
  # its terminal. One byte comes back. Then name the ticket in `Stdio.passed`. A ticket works once.
}

struct VersionRequest {
  metadata @0 :List(KeyValue);
}

struct VersionReply {
  version @0 :Text;
  # Of the daemon, e.g. "0.1.0".
  apiVersion @1 :UInt32;
  # Counts changes of this schema; a client may ask for at least the one that it needs.
  pid @2 :UInt32;
  # Of the supervisor.
  reactor @3 :Text;
  # How exits are noticed: "io_uring" or "epoll".
  root @4 :Text;
  # The state directory.
  zygotes @5 :UInt16;
  # Number of zygote processes.
}

struct CreateRequest {
  id @0 :Text;
  # Name of the container: 1 to 255 of [A-Za-z0-9_+.-], not beginning with a dot; unique on the node.
  source :union {
    bundle @1 :Text;
    # Absolute path of an OCI bundle: a directory with config.json.
    config @2 :Data;
    # The text of a config.json, without a bundle; its paths are absolute.
  }
  stdio @3 :Stdio;
  labels @4 :List(KeyValue);
  # Kept with the container, returned by `state` and `list`.
  start @5 :Bool;
  # Run at once instead of waiting for `Container.start`.
  autoRemove @6 :Bool;
  # Delete the container when its init process ends. Handles made by `create` still learn the exit.
  ignoreUnsupported @7 :Bool;
  # Go on without what this version does not support, instead of refusing the configuration.
  hostOverlay @8 :Bool;
  # The root is a throw-away layer over the host's root, which is read-only below it; root.path is not looked at.
  metadata @9 :List(KeyValue);
  checkpoint @10 :Text;
  # Go on from the checkpoint of this name (`Container.checkpoint`) in place of starting the program; needs a bundle and
  # `start`. Empty: begin anew.
  checkpointDirectory @11 :Text;
  # Absolute path of the directory of checkpoints; empty for `checkpoints` in the bundle.
}

struct Stdio {
  # Where a process's standard descriptors come from.
  union {
    file @0 :Void;
    # Input is empty; output and error are appended to `stdout` and `stderr` in the process's state folder. The default.
    null @1 :Void;
    # Input is empty, output and error go nowhere.
    passed @2 :Data;
    # Descriptors that were handed over under this ticket (`Brood.stdioTicket`): three, or one for a process that asks
    # for a terminal.
  }
}

struct GetRequest {
  id @0 :Text;
  metadata @1 :List(KeyValue);
}

struct ListRequest {
  labels @0 :List(KeyValue);
  # Only containers that have all of these labels.
  metadata @1 :List(KeyValue);
}

struct ListReply {
  containers @0 :List(ContainerState);
}

struct RunRequest {
  create @0 :CreateRequest;
  # `start` and `autoRemove` are implied and `stdio` is not looked at: input is empty, output is captured. An empty `id`
  # gets a name.
  outputLimit @1 :UInt32;
  # Bytes kept of each stream; what comes after is read and thrown away. 0 stands for 1 MiB; at most 8 MiB.
  timeoutMs @2 :UInt64;
  # Kill the container after this time; 0 for never.
}

struct RunOutcome {
  union {
    done @0 :RunResult;
    failure @1 :Failure;
  }
}

struct RunResult {
  id @0 :Text;
  # Of the container, or of the exec.
  exit @1 :Exit;
  stdout @2 :Data;
  stderr @3 :Data;
  stdoutTruncated @4 :Bool;
  stderrTruncated @5 :Bool;
  timedOut @6 :Bool;
  # The exit is the kill that `timeoutMs` asked for.
}

interface Container {
  # A handle on one container. It means that container for ever: one that later takes the same name is another.

  start @0 (request :StartRequest) -> (outcome :Outcome);
  # Lets the program of a created container run; answers when execve has succeeded or failed.

  wait @1 (request :WaitRequest) -> (outcome :WaitOutcome);
  # Answers when the init process has ended. The exit was recorded on disk before.

  kill @2 (request :KillRequest) -> (outcome :Outcome);
  # Sends a signal.

  delete @3 (request :DeleteRequest) -> (outcome :Outcome);
  # Removes a stopped container: its cgroup, its state, its name.

  state @4 (request :StateRequest) -> (outcome :StateOutcome);
  # How it is now.

  exec @5 (request :ExecRequest) -> (process :Process, outcome :Outcome);
  # One more process in the container: everything is set up, and its program waits for `Process.start`; with
  # `request.start` it runs at once and never waits. As with `Brood.create`, the handle is there at once, so that exec,
  # start and wait are one round trip, and that of a failed exec answers with the failure. Refused once the init process
  # has ended.

  process @6 (request :ProcessRequest) -> (process :Process, outcome :Outcome);
  # A handle on an exec that exists already.

  execSync @7 (request :ExecSyncRequest) -> (outcome :RunOutcome);
  # One shot: run, capture the output, wait; nothing of the exec is left when the answer comes. It is killed when the
  # caller goes away before the answer.

  pause @8 (request :PauseRequest) -> (outcome :Outcome);
  # Stops all processes of a running container; answers when none of them runs any more. Of a paused container `kill` works
  # (SIGKILL at once, other signals are met when it goes on), and so does a forced `delete`; `start` and `exec` are refused.

  resume @9 (request :ResumeRequest) -> (outcome :Outcome);
  # Lets a paused container go on; answers when it does.

  update @10 (request :UpdateRequest) -> (outcome :Outcome);
  # Changes the limits of a container that has not stopped. What the request does not name stays as it is; after a refusal
  # everything is as it was.

  stats @11 (request :StatsRequest) -> (outcome :StatsOutcome);
  # What the container uses now, as its cgroups count it.

  checkpoint @12 (request :CheckpointRequest) -> (outcome :Outcome);
  # Writes the processes of a running container to images, by CRIU, under a name; with `request.exit` they end with that,
  # and the container is stopped. `CreateRequest.checkpoint` makes a container go on from there.

  checkpoints @13 (request :CheckpointsRequest) -> (outcome :CheckpointsOutcome);
  # The checkpoints of the container's bundle, or of another directory, sorted by name.

  deleteCheckpoint @14 (request :DeleteCheckpointRequest) -> (outcome :Outcome);
  # Removes the images of one of them.
}

struct CheckpointRequest {
  checkpoint @0 :Checkpoint;
  # `created` is not looked at.
  directory @1 :Text;
  # Absolute path of the directory of checkpoints; empty for `checkpoints` in the bundle.
  metadata @2 :List(KeyValue);
}

struct Checkpoint {
  name @0 :Text;
  # The same characters as a container's ID; one of that name must not be there yet.
  exit @1 :Bool;
  # The container's processes end with it; otherwise they go on.
  tcp @2 :Bool;
  # Open TCP connections too.
  unixSockets @3 :Bool;
  # Unix sockets too whose other end is outside.
  shell @4 :Bool;
  # Sessions and terminals too that were begun outside.
  createdText @5 :Text;
  # RFC 3339, UTC.
}

struct CheckpointsRequest {
  directory @0 :Text;
  # As in `CheckpointRequest`.
  metadata @1 :List(KeyValue);
}

struct CheckpointsOutcome {
  union {
    checkpoints @0 :List(Checkpoint);
    failure @1 :Failure;
  }
}

struct DeleteCheckpointRequest {
  name @0 :Text;
  directory @1 :Text;
  # As in `CheckpointRequest`.
  metadata @2 :List(KeyValue);
}

interface Process {
  # A handle on one exec. It means that exec for ever: one that later takes the same name is another.

  start @0 (request :StartRequest) -> (outcome :Outcome);
  # Lets the program run; answers when execve has succeeded or failed.

  wait @1 (request :WaitRequest) -> (outcome :WaitOutcome);
  # Answers when the process has ended. The exit was recorded on disk before, and it is told before that of the
  # container's init process.

  kill @2 (request :KillRequest) -> (outcome :Outcome);
  # Sends a signal to this one process; `all` is refused.

  delete @3 (request :DeleteRequest) -> (outcome :Outcome);
  # Removes what is kept of an exec that has ended: its folder, its name.

  state @4 (request :StateRequest) -> (outcome :ProcessOutcome);
  # How it is now.

  resize @5 (request :ResizeRequest) -> (outcome :Outcome);
  # Sets the size of a terminal that the daemon holds; `wrongState` if it holds none. The master of a terminal made for
  # `Stdio.passed` is the client's own: there it is the client who sets the size (TIOCSWINSZ).

  closeStdin @6 (request :CloseStdinRequest) -> (outcome :Outcome);
  # Ends an input that the daemon holds; `wrongState` if it holds none. Of `Stdio.passed` it holds nothing.
}

struct ExecRequest {
  id @0 :Text;
  # Name of the exec: unique in the container, the same characters as a container's ID; "init" and names that end in
  # ".json" or ".sock" are reserved. Empty: it gets one (`Process.state` tells).
  args @1 :List(Text);
  # Program and arguments. This and the fields down to `terminal` change a copy of the container's own process.
  env @2 :List(Text);
  # "KEY=VALUE"; takes the place of entries with the same key.
  cwd @3 :Text;
  # Empty: the container's own.
  uid :union {
    own @4 :Void;
    value @5 :UInt32;
  }
  gid :union {
    own @6 :Void;
    value @7 :UInt32;
  }
  additionalGids @8 :List(UInt32);
  # Empty: the container's own.
  umask :union {
    own @9 :Void;
    value @10 :UInt32;
  }
  capabilities @11 :List(Text);
  # Added to the bounding, effective and permitted sets, e.g. "CAP_NET_RAW".
  noNewPrivileges @12 :Bool;
  # Set; otherwise as the container's own.
  rlimits @13 :List(Rlimit);
  # Each takes the place of the container's own of that type.
  apparmorProfile @14 :Text;
  selinuxLabel @15 :Text;
  # Empty: the container's own.
  terminal @16 :Bool;
  # Needs `Stdio.passed` with a single descriptor.
  rows @17 :UInt16;
  columns @18 :UInt16;
  # Its first size; 0 leaves it to the kernel.
  processJson @19 :Data;
  # An OCI process object; if it is there, it is the whole process, and the fields from `args` to `columns` are not
  # looked at.
  stdio @20 :Stdio;
  start @21 :Bool;
  # Run at once instead of waiting for `Process.start`.
  autoRemove @22 :Bool;
  # Delete it when it ends. Handles made by `exec` still learn the exit.
  ignoreUnsupported @23 :Bool;
  # Go on without what this version does not support, instead of refusing the process.
  metadata @24 :List(KeyValue);
}

struct Rlimit {
  type @0 :Text;
  # "RLIMIT_NOFILE" and so on.
  soft @1 :UInt64;
  hard @2 :UInt64;
}

struct ProcessRequest {
  name @0 :Text;
  # The exec's ID.
  metadata @1 :List(KeyValue);
}

struct ExecSyncRequest {
  exec @0 :ExecRequest;
  # `start` and `autoRemove` are implied and `stdio` is not looked at: input is empty, output is captured.
  outputLimit @1 :UInt32;
  # Bytes kept of each stream; what comes after is read and thrown away. 0 stands for 1 MiB; at most 8 MiB.
  timeoutMs @2 :UInt64;
  # Kill the process after this time; 0 for never.
  metadata @3 :List(KeyValue);
}

struct ResizeRequest {
  rows @0 :UInt16;
  columns @1 :UInt16;
  metadata @2 :List(KeyValue);
}

struct CloseStdinRequest {
  metadata @0 :List(KeyValue);
}

struct PauseRequest {
  metadata @0 :List(KeyValue);
}

struct ResumeRequest {
  metadata @0 :List(KeyValue);
}

struct UpdateRequest {
  resources @0 :Resources;
  resourcesJson @1 :Data;
  # An OCI `linux.resources` object. Where `resources` says something too, that goes before.
  metadata @2 :List(KeyValue);
}

struct Resources {
  # The limits that nearly everybody asks for; `UpdateRequest.resourcesJson` knows them all. What is not given stays as it is.
  memoryLimit :union {
    keep @0 :Void;
    value @1 :Int64;
    # Bytes; -1 for none.
  }
  memorySwap :union {
    keep @2 :Void;
    value @3 :Int64;
    # Bytes of memory and swap together; -1 for no limit. Needs memoryLimit.
  }
  memoryReservation :union {
    keep @4 :Void;
    value @5 :Int64;
    # Bytes that are left to the container as long as possible; -1 for none.
  }
  cpuQuota :union {
    keep @6 :Void;
    value @7 :Int64;
    # Microseconds of processor time per period; -1 for no limit.
  }
  cpuPeriod @8 :UInt64;
  # Microseconds; 0: as it is.
  cpuShares @9 :UInt64;
  # Weight against others, 2 to 262144, 1024 being the usual; 0: as it is.
  cpusetCpus @10 :Text;
  # E.g. "0-3,7"; empty: as it is.
  cpusetMems @11 :Text;
  pidsLimit :union {
    keep @12 :Void;
    value @13 :Int64;
    # Processes and threads; -1 for no limit.
  }
  blkioWeight @14 :UInt16;
  # 10 to 1000; 0: as it is.
}

struct StatsRequest {
  metadata @0 :List(KeyValue);
}

struct StatsOutcome {
  union {
    stats @0 :Stats;
    failure @1 :Failure;
  }
}

struct Stats {
  # A pointer that is absent, or an empty list, says that the host or the container's cgroups do not count this.
  time @0 :UInt64;
  # When it was read.
  cpu @1 :CpuStats;
  throttling @2 :Throttling;
  # Where a quota can be set.
  memory @3 :MemoryStats;
  pids @4 :PidsStats;
  io @5 :List(IoEntry);
  hugePages @6 :List(HugePageStats);
  rdma @7 :List(RdmaStats);
  pressure @8 :PressureStats;
}

struct CpuStats {
  # Nanoseconds of processor time since the container was made.
  total @0 :UInt64;
  user @1 :UInt64;
  # In the programs' own code.
  kernel @2 :UInt64;
  perCpu @3 :List(UInt64);
  # By processor; cgroup v1 only.
}

struct Throttling {
  # What a quota did.
  periods @0 :UInt64;
  throttledPeriods @1 :UInt64;
  # In which the quota was used up.
  throttled @2 :UInt64;
  # Nanoseconds that processes were kept waiting, summed over processors.
  burstPeriods @3 :UInt64;
  # In which more than the quota was used; 0 where that is not counted, as with `burst`.
  burst @4 :UInt64;
  # Nanoseconds used above the quota.
}

struct MemoryStats {
  # Bytes.
  usage @0 :MemoryCounter;
  withSwap @1 :MemoryCounter;
  # Memory and swap together; absent without swap accounting.
  swap @2 :MemoryCounter;
  kernel @3 :MemoryCounter;
  # Of that, the kernel's.
  kernelTcp @4 :MemoryCounter;
  # Of TCP's buffers; cgroup v1 only.
  cache @5 :UInt64;
  # Of the page cache.
  oom @6 :UInt64;
  # How often the limit was met and nothing could be reclaimed; cgroup v2 only, otherwise 0.
  oomKills @7 :UInt64;
  # Processes of the container that the kernel has killed for memory.
  underOom @8 :Bool;
  # Its processes wait for memory, with the killer disabled; cgroup v1 only.
  stat @9 :List(Figure);
  # The kernel's memory.stat as it is: names and units differ between cgroup v1 and v2.
}

struct MemoryCounter {
  # Bytes.
  usage @0 :UInt64;
  limit @1 :UInt64;
  # 0: no limit.
  peak @2 :UInt64;
  # Most ever; 0 where that is not counted.
  failures @3 :UInt64;
  # How often the limit was met.
}

struct Figure {
  name @0 :Text;
  value @1 :UInt64;
}

struct PidsStats {
  current @0 :UInt64;
  # Processes and threads.
  limit @1 :UInt64;
  # 0: no limit.
}

struct IoEntry {
  # A figure of one block device.
  figure @0 :Text;
  # "serviceBytes", "serviced" (operations), and on cgroup v1 also "queued", "serviceTime" (ns), "waitTime" (ns),
  # "merged", "time" (ms), "sectors".
  major @1 :UInt32;
  minor @2 :UInt32;
  operation @3 :Text;
  # "Read", "Write", "Sync", "Async", "Discard", "Total"; empty where they are not told apart.
  value @4 :UInt64;
}

struct HugePageStats {
  # Bytes.
  pageSize @0 :Text;
  # "2MB"
  usage @1 :UInt64;
  peak @2 :UInt64;
  # Most ever; cgroup v1 only, otherwise 0.
  failures @3 :UInt64;
  # How often the limit was met.
}

struct RdmaStats {
  device @0 :Text;
  # "mlx5_0"
  handles @1 :UInt32;
  objects @2 :UInt32;
  handlesLimit @3 :UInt32;
  # 4294967295: no limit.
  objectsLimit @4 :UInt32;
}

struct PressureStats {
  # How long the container's processes waited for a resource; absent where the kernel does not count it.
  cpu @0 :Pressure;
  memory @1 :Pressure;
  io @2 :Pressure;
}

struct Pressure {
  some @0 :Stall;
  # At least one process waited.
  full @1 :Stall;
  # All of them did.
}

struct Stall {
  avg10 @0 :Float64;
  # Percent of the last 10 s.
  avg60 @1 :Float64;
  avg300 @2 :Float64;
  totalUs @3 :UInt64;
  # Microseconds since the container was made.
}

struct ProcessOutcome {
  union {
    state @0 :ProcessState;
    failure @1 :Failure;
  }
}

struct StartRequest {
  metadata @0 :List(KeyValue);
}

struct WaitRequest {
  metadata @0 :List(KeyValue);
}

struct WaitOutcome {
  union {
    exit @0 :Exit;
    failure @1 :Failure;
  }
}

struct KillRequest {
  signal @0 :UInt8;
  # Number; 0 stands for SIGTERM (15).
  all @1 :Bool;
  # To every process of the container instead of its init process; for containers only.
  metadata @2 :List(KeyValue);
}

struct DeleteRequest {
  force @0 :Bool;
  # Kill it first if it has not stopped.
  metadata @1 :List(KeyValue);
}

struct StateRequest {
  metadata @0 :List(KeyValue);
}

struct StateOutcome {
  union {
    state @0 :ContainerState;
    failure @1 :Failure;
  }
}

struct ContainerState {
  id @0 :Text;
  status @1 :Status;
  bundle @2 :Text;
  # Absolute path; empty for a container over the host's root.
  processes @3 :List(ProcessState);
  # The init process, under the name "init", while it lives; then the execs, those that have ended too until they are
  # deleted, sorted by name.
  labels @4 :List(KeyValue);
  annotations @5 :List(KeyValue);
  # Of config.json.
  createdText @6 :Text;
  # RFC 3339, UTC.
  exit @7 :Exit;
  # Of the init process; absent until the container has stopped.
  ociVersion @8 :Text;
  rootfs @9 :Text;
  # Absolute path of the root file system.
}

enum Status {
  # The statuses of the OCI runtime specification, and one of runtimes.
  creating @0;
  created @1;
  running @2;
  stopped @3;
  paused @4;
  # None of the container's processes runs until `Container.resume`. Of the container alone: its processes stay `running`.
}

struct ProcessState {
  name @0 :Text;
  # "init", or an exec's name.
  pid @1 :UInt32;
  # In the daemon's pid namespace; 0 when there is no process.
  status @2 :Status;
  exit @3 :Exit;
  # Absent until it has ended.
}

struct Exit {
  status @0 :UInt8;
  # 0 to 255; 128 + N for death by signal N; 255 when it is not known, with `reason`.
  signal @1 :UInt8;
  # The signal, for death by one; otherwise 0.
  reason @2 :Text;
  # Why the status is not known; otherwise empty.
  time @3 :UInt64;
  # When it was noticed.
  oomKilled @4 :Bool;
  # Of an init process: the kernel has killed one of the container's processes for memory. Of an exec: so it has, and the
  # exec died of SIGKILL.
  rusage @5 :Rusage;
  # Absent when it is not known: the process was somebody else's child, or its status is not known.
  memoryPeak @6 :UInt64;
  # Of an init process: bytes, the most that the container has had in use; 0 where that is not counted, as with an exec.
  cpuTotal @7 :UInt64;
  # Of an init process: nanoseconds of processor time of all that ran in the container; 0 as above.
  pressure @8 :PressureTotals;
  # Of an init process: absent where the kernel does not count it.
}

struct Rusage {
  # Of the process and those of its children that it waited for (getrusage(2)).
  userTime @0 :UInt64;
  # Nanoseconds in the program's own code.
  systemTime @1 :UInt64;
  # Nanoseconds in the kernel.
  maxRss @2 :UInt64;
  # Bytes, of the largest process.
}

struct PressureTotals {
  # Microseconds that at least one process (some), or all (full), waited for a resource.
  cpuSome @0 :UInt64;
  cpuFull @1 :UInt64;
  memorySome @2 :UInt64;
  memoryFull @3 :UInt64;
  ioSome @4 :UInt64;
  ioFull @5 :UInt64;
}

struct Outcome {
  # Of calls that return nothing else.
  union {
    ok @0 :Void;
    failure @1 :Failure;
  }
}

struct Failure {
  kind @0 :FailureKind;
  message @1 :Text;
  # One line for people; it names the field, path or step.
  exitStatus @2 :UInt8;
  # What a command line should exit with: 125, 126 (not executable) or 127 (not found).
  errno @3 :Int32;
  # The kernel's reason, if there is one; otherwise 0.
  step @4 :Text;
  # The set-up step that failed (`setupFailed`); otherwise empty.
}

enum FailureKind {
  notFound @0;
  # No such container or exec (any more).
  alreadyExists @1;
  # The name is taken.
  invalidRequest @2;
  # A field of the request itself: a bad ID, an unknown ticket, a number out of range.
  invalidConfig @3;
  # The bundle or its config.json.
  setupFailed @4;
  # A step between clone and execve failed; nothing is left.
  wrongState @5;
  # The state of the container or process does not allow it.
  launchFailed @6;
  # The container could not be cloned: resources, a dead zygote.
  overloaded @7;
  # A limit of the daemon is reached; later it may work.
  internal @8;
  # The state directory or the kernel refused what should work.
}

struct EventsRequest {
  since @0 :UInt64;
  # Replay events recorded at this time or later; 0 for none, 1 for all that are kept.
  afterSeq @1 :UInt64;
  # Replay events after this sequence number (a cursor from an earlier subscription); 0 for not. Goes before `since`.
  follow @2 :Bool;
  # Go on with new events as they happen; otherwise the sink gets `done` after the replay.
  id @3 :Text;
  # Only events of this container; empty for all.
  metadata @4 :List(KeyValue);
}

interface EventSink {
  # Implemented by the client.

  push @0 (batch :EventBatch) -> ();
  # The next batch is sent when this one has been answered, so a slow client is never flooded.

  done @1 () -> ();
  # The replay is complete and nothing follows.
}

struct EventBatch {
  events @0 :List(Event);
  # In order of their sequence numbers.
  laggedTo @1 :UInt64;
  # Not 0: the client was too slow, and events before this sequence number are not kept any more. Never silent.
}

struct Event {
  seq @0 :UInt64;
  # Counts from 1, without gaps, across restarts of the supervisor.
  time @1 :UInt64;
  type @2 :Text;
  # "create", "start-container", "exec-added", "start-process", "paused", "resumed", "oom", "checkpoint", "restore", "exit",
  # "delete". Of one exec, "exec-added" comes before "start-process", that before its "exit", and that before the "exit" of
  # the container's init process. "oom": the kernel has killed a process of the container for memory; before the "exit" that comes of it.
  # "checkpoint": the images of one are written; before the "exit" if the container ends with it. "restore": between "create"
  # and "start-container" of a container that goes on from a checkpoint. Others may come: ignore what you do not know.
  id @3 :Text;
  # The container.
  process @4 :Text;
  # "init", or an exec's name.
  pid @5 :UInt32;
  exit @6 :Exit;
  # Of an "exit" event.
}

interface Subscription {
  # Dropping it ends the flow of events.
}

struct StdioTicketRequest {
  metadata @0 :List(KeyValue);
}

struct StdioTicketReply {
  ticket @0 :Data;
  # 16 unguessable bytes; void after a minute or at the end of the connection.
  path @1 :Text;
  # The socket.
}
