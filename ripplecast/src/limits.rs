//! Every limit of the crate: its default, and the reason for it. Settings override those that name a setting.

use std::time::Duration;

/// Longest message that a client may send, in bytes. Setting: `max_message`. A browser form fits, a bomb does not.
pub(crate) const MAX_MESSAGE: usize = 1 << 20;
/// Bytes that may wait for one connection's socket. Setting: `outbox`. Some ten seconds of a busy feed on a poor link.
pub(crate) const OUTBOX: usize = 1 << 20;
/// Bytes that may wait for slow readers on a hub. Setting: `max_queued_bytes`. A quarter of a small machine's memory.
pub(crate) const QUEUED_BYTES: usize = 256 << 20;
/// The least setting of that: what shards have under way without any slow reader must fit.
pub(crate) const LEAST_QUEUED_BYTES: usize = 1 << 20;
/// Bytes that the kernel holds for one connection without having sent them. More stays in the outbox, under our policies
/// and our bounds. A round trip's worth of a fast link.
pub(crate) const UNSENT_BYTES: u32 = 256 << 10;
/// Length above which a message is compressed where compression is on, in bytes. Setting: `compression`. What is shorter
/// is one packet either way, and gets little shorter by itself.
pub(crate) const COMPRESS_ABOVE: usize = 256;
/// Final blocks of one compressed message that a client may send. One is usual where any is; each costs a fresh start, so
/// that a message of nothing else would hold its shard a hundred times as long as another of its length.
pub(crate) const FINAL_BLOCKS: usize = 64;
/// Silence after which a ping is sent. Setting: `ping_interval`. Below the 30 to 60 s after which proxies cut idle links.
pub(crate) const PING_INTERVAL: Duration = Duration::from_secs(25);
/// The longest that `ping_interval` may be: beyond it a ping is of no use, and a shard's clock goes round after 49 days.
pub(crate) const PING_INTERVAL_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Time that a peer has to show life after a ping. Setting: `pong_timeout`. A phone that changes networks takes a few
/// seconds; TCP repeats what was lost, so a second ping would add nothing.
pub(crate) const PONG_TIMEOUT: Duration = Duration::from_secs(10);
/// Time in which a started frame or message must be complete. Setting: `message_timeout`. Cuts peers that drip bytes.
pub(crate) const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Time that a peer has to answer our close frame before the socket is dropped.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// The same at shutdown, so that every `on_close` is done well before a supervisor's 10 s.
pub(crate) const SHUTDOWN_CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// Time that a server has at shutdown to hand over a socket whose upgrade was accepted. It takes a moment, unless a
/// layer answered the request differently.
pub(crate) const ARRIVAL_LIMIT: Duration = Duration::from_secs(1);
/// Time that all connections and subscriptions have at shutdown. More than they take, except where nothing drives the runtime that
/// made the hub. With the 250 ms below and the 2 s for the other nodes it is the 10 s that supervisors commonly allow.
pub(crate) const SHUTDOWN_LIMIT: Duration = Duration::from_millis(7_750);
/// Time that they have after that. If a callback blocked the runtime's threads until then, overdue work is done in this
/// time.
pub(crate) const SHUTDOWN_LAST_TURNS: Duration = Duration::from_millis(250);
/// Time that a waiting handler has at shutdown before it is cancelled.
pub(crate) const HANDLER_GRACE: Duration = Duration::from_secs(5);
/// Longest reason in a close frame, in bytes: a control frame's 125 less the code (RFC 6455, section 5.5).
pub(crate) const CLOSE_REASON: usize = 123;
/// Longest name of a room, client, table, counter, channel, group or stream (less 5 for its dead letters), in bytes. Names are kept per node; ids and paths fit.
pub(crate) const NAME: usize = 255;
/// Connections of a hub. Setting: `max_connections`. One per descriptor at the most; protects memory, not a licence.
pub(crate) const CONNECTIONS: usize = 100_000;
/// Connections from one address, loopback aside. Setting: `max_connections_per_address`. A large office, not a flood.
pub(crate) const CONNECTIONS_PER_ADDRESS: usize = 1_000;
/// Leading bits of an IPv6 address by which limits count. Setting: `ipv6_prefix`. A home or a server has a /64, and so 2^64
/// addresses to choose from.
pub(crate) const IPV6_PREFIX: u8 = 64;
/// Rooms of one connection. Setting: `max_rooms_per_connection`. Enough for a tab that follows some hundred topics.
/// Each room takes memory here and an entry in the backend, so a client must not join rooms without limit.
pub(crate) const ROOMS_PER_CONNECTION: usize = 1_000;
/// Shards of a hub: an id has 8 bits for it.
pub(crate) const SHARDS: usize = 255;
/// Connections of one shard: an id has 24 bits for the slot.
pub(crate) const SLOTS: usize = 1 << 24;
/// Commands that may wait in a shard's mailbox before pushes are refused. Some 50 ms of work for the shard.
pub(crate) const MAILBOX_COMMANDS: usize = 1 << 16;
/// Commands that may wait in a shard's mailbox before it leaves what peers send in their sockets: what a peer sends often
/// becomes a command. Whatever comes next waits for these: some 6 ms of work. One read holds up to 11,000 messages, so that
/// their echoes still fit the mailbox several times.
pub(crate) const MAILBOX_CROWDED: usize = 8 * COMMANDS_PER_TURN;
/// Commands in a shard's mailbox that one read of a peer may cause before the peer is read again only when they have been
/// taken up. Two turns' work, so a shard is never idle for want of the peer's input.
pub(crate) const MAILBOX_SHARE: usize = 2 * COMMANDS_PER_TURN;
/// Bytes of one read while a shard's mailbox holds more than a share: some 700 of the shortest messages. So one peer that
/// sends as much as it can leaves space in the mailbox for seven others that do the same.
pub(crate) const CROWDED_READ: usize = 4 << 10;
/// Payload bytes that may wait in a shard's mailbox before pushes are refused.
pub(crate) const MAILBOX_BYTES: usize = 64 << 20;
/// Room bytes that a shard has encoded and not yet delivered, above which it takes no further work until they are out.
pub(crate) const PENDING_BYTES: usize = 256 << 10;
/// Sends of one turn of a shard. During a large walk other tasks of the runtime wait some 40 µs.
pub(crate) const SENDS_PER_TURN: usize = 32;
/// Commands of one turn of a shard.
pub(crate) const COMMANDS_PER_TURN: usize = 256;
/// Socket events of one turn of a shard.
pub(crate) const EVENTS_PER_TURN: usize = 256;
/// Reads of one connection in one turn, of `READ_BUFFER` bytes each.
pub(crate) const READS_PER_TURN: usize = 4;
/// The one read buffer of a shard, in bytes.
pub(crate) const READ_BUFFER: usize = 64 << 10;
/// Slots looked at in one turn of the sweep that finds silent peers.
pub(crate) const SWEEP_PER_TURN: usize = 8192;
/// A handler that holds its shard for longer than this is logged: everybody else of the shard waits meanwhile.
pub(crate) const SLOW_HANDLER: Duration = Duration::from_millis(5);
/// How often a shard looks at its clock-driven work when nothing shorter is set.
pub(crate) const TICK: Duration = Duration::from_secs(1);
/// Stripes of the map from names to rooms, so that making rooms on many cores seldom meets.
pub(crate) const ROOM_STRIPES: usize = 16;
/// Connections of one shard that may be looked into at once: each is sent to by a dearer way.
pub(crate) const TAPS: usize = 16;
/// Frames that wait for whoever looks into a connection: a second of a busy one.
pub(crate) const TAP_FRAMES: usize = 256;
/// Bytes of a frame that are shown to whoever looks into its connection.
pub(crate) const TAP_HEAD: usize = 256;
/// A compressed message that is longer than this, inflated, is told without its head: the shard does it, and everybody waits.
pub(crate) const TAP_INFLATE: usize = 64 << 10;
/// Rows of a published table that are remembered, by their keys, for when the node is no longer overloaded.
pub(crate) const ROWS_BEHIND: usize = 1 << 16;
