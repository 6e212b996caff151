//! Every bound in one place. What happens at each is said beside it and tested.

/// Waits on one container or exec; one more is refused as overloaded.
pub const WAITERS_PER_CONTAINER_MAX: usize = 4096;

/// Execs of one container that are registered, whether they live or have ended and not been deleted; one more is refused
/// as overloaded.
pub const EXECS_PER_CONTAINER_MAX: usize = 1024;

/// Execs of all containers; one more is refused as overloaded. A living one costs one descriptor.
pub const EXECS_MAX: usize = 8192;

/// Client connections; one more is closed at once.
pub const CONNECTIONS_MAX: usize = 4096;

/// Connections of one process; one more is closed at once. So no process can lock out the others.
pub const CONNECTIONS_PER_PROCESS_MAX: usize = 1024;

/// Seconds that a client may take for its first message, for the rest of a message that has begun, and for a large one's
/// turn; then its connection is closed. Between messages it may be silent for ever.
pub const MESSAGE_PATIENCE_S: u64 = 10;

/// Seconds for which a client with more than [`REPLIES_OWN_BYTES`] before it may read nothing; then it is closed.
pub const READER_PATIENCE_S: u64 = 60;

/// Bytes of a message that is read at once; a larger one takes its share of [`LARGE_MESSAGES_BYTES_MAX`].
pub const SMALL_MESSAGE_BYTES: usize = 64 << 10;

/// Bytes of all large messages that are being read or acted on; one more waits its turn.
pub const LARGE_MESSAGES_BYTES_MAX: usize = 128 << 20;

/// Segments of a message; a message of more ends its connection.
pub const SEGMENTS_MAX: usize = 511;

/// Capabilities in one message, and steps of a pipelined call's path; more end the connection. The schema needs one of
/// each.
pub const CAPS_PER_MESSAGE_MAX: u32 = 16;
/// See [`CAPS_PER_MESSAGE_MAX`].
pub const PIPELINE_DEPTH_MAX: u32 = 16;

/// Questions of one connection that are not answered, or not finished by the client; one more ends the connection.
pub const QUESTIONS_PER_CONNECTION_MAX: usize = 16 << 10;
/// Handles of one connection that are not released; one more is refused with the exception `overloaded`.
pub const HANDLES_PER_CONNECTION_MAX: usize = 16 << 10;
/// Questions, and handles, that every connection may have whatever others do.
pub const ENTRIES_OWN: usize = 32;
/// Questions, and handles, of all connections beyond [`ENTRIES_OWN`] of each; at this the same as at a connection's own
/// limit.
pub const ENTRIES_SHARED: usize = 64 << 10;

/// Bytes of replies and events that wait for one client to read them; above, none of its requests is read.
pub const REPLIES_OWN_BYTES: usize = 256 << 10;
/// Bytes that calls which are under way already may add to that; one more byte ends the connection.
pub const REPLIES_PER_CONNECTION_MAX: usize = 64 << 20;
/// The same for all connections together, beyond [`REPLIES_OWN_BYTES`] of each.
pub const REPLIES_SHARED_BYTES: usize = 256 << 20;

/// Subscriptions of one connection; one more is refused with the exception `overloaded`.
pub const SUBSCRIPTIONS_PER_CONNECTION_MAX: usize = 64;

/// Messages taken from one connection before others have their turn.
pub const MESSAGES_PER_TURN: usize = 64;

/// Connections for descriptors, in all and of one process; one more is closed at once.
pub const STDIO_CONNECTIONS_MAX: usize = 1024;
/// See [`STDIO_CONNECTIONS_MAX`].
pub const STDIO_CONNECTIONS_PER_PROCESS_MAX: usize = 256;

/// Milliseconds between two tries to accept when there is no descriptor left.
pub const ACCEPT_PAUSE_MS: u64 = 50;

/// Milliseconds between two tries to write down exits and events that the disk did not take.
pub const RECORD_PAUSE_MS: u64 = 200;

/// Seconds for which the same complaint is not logged again; the next one says how many there were.
pub const COMPLAINT_PAUSE_S: u64 = 10;

/// Stdio tickets that are issued and not used; one more is refused as overloaded.
pub const TICKETS_MAX: usize = 4096;

/// Tickets of one connection in use; one more is refused with the exception `overloaded`.
pub const TICKETS_PER_CONNECTION_MAX: usize = 256;

/// Seconds after which an unused stdio ticket is void.
pub const TICKET_LIFETIME_S: u64 = 60;

/// Bytes kept of each stream of a one-shot run when the request does not say.
pub const OUTPUT_LIMIT_DEFAULT: usize = 1 << 20;

/// Most bytes kept of each stream of a one-shot run; a request for more is refused.
pub const OUTPUT_LIMIT_MAX: usize = 8 << 20;

/// Bytes kept of every stream of a one-shot run whatever others do, up to its limit.
pub const OUTPUT_OWN_BYTES: usize = 64 << 10;
/// Bytes kept of all streams beyond that; at this a stream is truncated, as at its own limit.
pub const OUTPUT_SHARED_BYTES: usize = 256 << 20;

/// Events in one batch to a subscriber; the next batch waits for the answer to this one.
pub const EVENTS_PER_BATCH: usize = 256;

/// Events kept by default (`--retain-count`); a subscriber who falls further behind is told so.
pub const RETAIN_COUNT_DEFAULT: usize = 500;

/// Exit notices taken from the kernel, or from the keeper, in one turn of the loop: about 10 ms of work. Then others have their
/// turn.
pub const EXITS_PER_TURN: usize = 32;

/// Submission entries of the exit ring. The kernel keeps completions that do not fit (`IORING_FEAT_NODROP`).
pub const EXIT_RING_ENTRIES: u32 = 256;

/// Cap'n Proto words (8 bytes) read of one message: a create request with a 16 MiB config fits, a flood does not.
pub const RPC_TRAVERSAL_WORDS_MAX: usize = 4 << 20;

/// Bytes of a container's labels, keys and values; more are refused. They are part of every list.
pub const LABEL_BYTES_MAX: usize = 64 << 10;

/// Bytes of a config.json given inline with a request; more is refused.
pub const INLINE_CONFIG_BYTES_MAX: usize = 16 << 20;

/// Threads for what may block: parsing, opening trees, removing cgroups; more work than that waits its turn.
pub const BLOCKING_THREADS_MAX: usize = 8;

/// Checkpoints and restores that CRIU works on; one more waits its turn. Each takes a thread of [`BLOCKING_THREADS_MAX`].
pub const CHECKPOINTS_MAX: usize = 4;

/// Hooks that are being started at a time; more wait their turn. One that runs takes no thread, only three descriptors,
/// and each container has one at most.
pub const HOOK_STARTS_MAX: usize = 4;

/// Most zygotes (`--zygotes`).
pub const ZYGOTES_MAX: usize = 64;

const _: () = assert!(OUTPUT_LIMIT_DEFAULT <= OUTPUT_LIMIT_MAX);
const _: () = assert!(INLINE_CONFIG_BYTES_MAX <= RPC_TRAVERSAL_WORDS_MAX * 8);
// Both streams of a one-shot run fit the answer.
const _: () = assert!(2 * OUTPUT_LIMIT_MAX < RPC_TRAVERSAL_WORDS_MAX * 8);
// Launches go on meanwhile.
const _: () = assert!(2 * CHECKPOINTS_MAX <= BLOCKING_THREADS_MAX);
const _: () = assert!(EVENTS_PER_BATCH <= RETAIN_COUNT_DEFAULT);
const _: () = assert!(TICKETS_PER_CONNECTION_MAX < TICKETS_MAX);
// Several processes are needed to take all connections.
const _: () = assert!(2 * CONNECTIONS_PER_PROCESS_MAX <= CONNECTIONS_MAX);
const _: () = assert!(2 * STDIO_CONNECTIONS_PER_PROCESS_MAX <= STDIO_CONNECTIONS_MAX);
// The largest message gets its turn; the largest answer is no overflow.
const _: () = assert!(RPC_TRAVERSAL_WORDS_MAX * 8 <= LARGE_MESSAGES_BYTES_MAX);
const _: () = assert!(2 * OUTPUT_LIMIT_MAX < REPLIES_PER_CONNECTION_MAX);
const _: () = assert!(REPLIES_PER_CONNECTION_MAX <= REPLIES_SHARED_BYTES);
