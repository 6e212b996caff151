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

/// Stdio tickets that are issued and not used; one more is refused as overloaded.
pub const TICKETS_MAX: usize = 4096;

/// Seconds after which an unused stdio ticket is void.
pub const TICKET_LIFETIME_S: u64 = 60;

/// Bytes kept of each stream of a one-shot run when the request does not say.
pub const OUTPUT_LIMIT_DEFAULT: usize = 1 << 20;

/// Most bytes kept of each stream of a one-shot run; a request for more is refused.
pub const OUTPUT_LIMIT_MAX: usize = 8 << 20;

/// Events in one batch to a subscriber; the next batch waits for the answer to this one.
pub const EVENTS_PER_BATCH: usize = 256;

/// Events kept by default (`--retain-count`); a subscriber who falls further behind is told so.
pub const RETAIN_COUNT_DEFAULT: usize = 500;

/// Exit notices taken from the kernel in one turn of the loop.
pub const EXITS_PER_TURN: usize = 256;

/// Submission entries of the exit ring. The kernel keeps completions that do not fit (`IORING_FEAT_NODROP`).
pub const EXIT_RING_ENTRIES: u32 = 256;

/// Cap'n Proto words (8 bytes) read of one message: a create request with a 16 MiB config fits, a flood does not.
pub const RPC_TRAVERSAL_WORDS_MAX: usize = 4 << 20;

/// Bytes of a config.json given inline with a request; more is refused.
pub const INLINE_CONFIG_BYTES_MAX: usize = 16 << 20;

/// Threads for what may block: parsing, opening trees, removing cgroups; more work than that waits its turn.
pub const BLOCKING_THREADS_MAX: usize = 8;

/// Hooks that are being started at a time; more wait their turn. One that runs takes no thread, only three descriptors,
/// and each container has one at most.
pub const HOOK_STARTS_MAX: usize = 4;

/// Most zygotes (`--zygotes`).
pub const ZYGOTES_MAX: usize = 64;

const _: () = assert!(OUTPUT_LIMIT_DEFAULT <= OUTPUT_LIMIT_MAX);
const _: () = assert!(INLINE_CONFIG_BYTES_MAX <= RPC_TRAVERSAL_WORDS_MAX * 8);
// Both streams of a one-shot run fit the answer.
const _: () = assert!(2 * OUTPUT_LIMIT_MAX < RPC_TRAVERSAL_WORDS_MAX * 8);
const _: () = assert!(EVENTS_PER_BATCH <= RETAIN_COUNT_DEFAULT);
