//! Limits that several files share, or that a setting overrides, each with its reason. A setting's limit is its default.

use std::time::Duration;

/// Longest message that a client may send, in bytes. Setting: `max_message`. Fits a browser form, but not a
/// bomb.
pub(crate) const MAX_MESSAGE: usize = 1 << 20;
/// Bytes that may wait for one connection's socket. Setting: `outbox`. About ten seconds of a busy feed on a
/// poor link.
pub(crate) const OUTBOX: usize = 1 << 20;
/// Bytes that may wait for slow readers on a hub. Setting: `max_queued_bytes`. A quarter of a small machine's memory.
pub(crate) const QUEUED_BYTES: usize = 256 << 20;
/// Minimum of `max_queued_bytes`: must fit the bytes that shards have in progress even without a slow reader.
pub(crate) const LEAST_QUEUED_BYTES: usize = 1 << 20;
/// Bytes that the kernel may hold unsent for one connection. The rest stays in the outbox, under our policies
/// and limits. One round trip of a fast link.
pub(crate) const UNSENT_BYTES: u32 = 256 << 10;
/// Length in bytes above which a message is compressed when compression is on. Setting: `compression`. A
/// shorter message is one packet either way and compresses poorly on its own.
pub(crate) const COMPRESS_ABOVE: usize = 256;
/// Final blocks that one compressed message from a client may contain. Normal messages contain at most one.
/// Each block restarts the decoder, so a message made of nothing else would block its shard a hundred times
/// as long as another message of its length.
pub(crate) const FINAL_BLOCKS: usize = 64;
/// Silence after which a ping is sent. Setting: `ping_interval`. Below the 30 to 60 s after which proxies cut
/// idle links.
pub(crate) const PING_INTERVAL: Duration = Duration::from_secs(25);
/// Maximum of `ping_interval`. A longer interval makes pings useless, and a shard's clock wraps after 49
/// days.
pub(crate) const PING_INTERVAL_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Time that a peer has to respond to a ping. Setting: `pong_timeout`. A phone that changes networks needs a
/// few seconds. TCP retransmits, so a second ping would add nothing.
pub(crate) const PONG_TIMEOUT: Duration = Duration::from_secs(10);
/// Time within which a started frame or message must complete. Setting: `message_timeout`. Cuts off peers
/// that drip bytes.
pub(crate) const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Time that a peer has to answer our close frame before the socket is dropped.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// The same at shutdown. Short enough that every `on_close` finishes well before a supervisor's 10 s.
pub(crate) const SHUTDOWN_CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// Time that a server has at shutdown to hand over a socket whose upgrade was accepted. This takes a moment,
/// unless a layer replaced the response.
pub(crate) const ARRIVAL_LIMIT: Duration = Duration::from_secs(1);
/// Time that all connections and subscriptions have at shutdown. They need less, unless nothing drives the
/// runtime that built the hub. Together with the 250 ms below and the 2 s for the other nodes this is the 10
/// s that supervisors commonly allow.
pub(crate) const SHUTDOWN_LIMIT: Duration = Duration::from_millis(7_750);
/// Time that they have after that. If a callback blocked the runtime's threads until then, overdue work
/// finishes in this time.
pub(crate) const SHUTDOWN_LAST_TURNS: Duration = Duration::from_millis(250);
/// Time that a waiting handler has at shutdown before it is cancelled.
pub(crate) const HANDLER_GRACE: Duration = Duration::from_secs(5);
/// Time that an `on_close` which waits has in `Hub::shutdown_now`. Other callbacks are cancelled at once.
pub(crate) const HURRIED_GRACE: Duration = Duration::from_millis(250);
/// Longest reason in a close frame, in bytes: the 125 of a control frame minus the code (RFC 6455, section
/// 5.5).
pub(crate) const CLOSE_REASON: usize = 123;
/// Longest name of a room, user, table, counter, topic, group or queue in bytes (5 less for a queue,
/// whose dead letters need a suffix). Each node stores names; this fits ids and paths.
pub(crate) const NAME: usize = 255;
/// Connections of a hub. Setting: `max_connections`. At most one per file descriptor. Protects memory; not a
/// licence limit.
pub(crate) const CONNECTIONS: usize = 100_000;
/// Connections from one address, except loopback. Setting: `max_connections_per_address`. A large office, not
/// a flood.
pub(crate) const CONNECTIONS_PER_ADDRESS: usize = 1_000;
/// Leading bits of an IPv6 address by which limits count. Setting: `ipv6_prefix`. A home or a server usually
/// owns a /64, which is 2^64 addresses.
pub(crate) const IPV6_PREFIX: u8 = 64;
/// Rooms of one connection. Setting: `max_rooms_per_connection`. Enough for a tab that follows hundreds of
/// topics. Each room takes memory here and an entry in the backend, so a client must not join an unlimited
/// number.
pub(crate) const ROOMS_PER_CONNECTION: usize = 1_000;
/// Shards of a hub: an id has 8 bits for the shard.
pub(crate) const SHARDS: usize = 255;
/// Connections of one shard: an id has 24 bits for the slot.
pub(crate) const SLOTS: usize = 1 << 24;
/// Commands that may wait in a shard's mailbox before pushes are refused. About 50 ms of work for the shard.
pub(crate) const MAILBOX_COMMANDS: usize = 1 << 16;
/// Waiting commands at which a shard stops reading from its peers, because what a peer sends often becomes a
/// command. Later work waits for these commands, about 6 ms. One read holds up to 11,000 messages, so the
/// mailbox still fits their echoes several times.
pub(crate) const MAILBOX_CROWDED: usize = 8 * COMMANDS_PER_TURN;
/// Commands that one read of a peer may add to a shard's mailbox; beyond that, the peer is read again only
/// after they have been taken. Two turns of work, so a shard is never idle for lack of the peer's input.
pub(crate) const MAILBOX_SHARE: usize = 2 * COMMANDS_PER_TURN;
/// Bytes of one read while a shard's mailbox holds more than a share: about 700 of the shortest messages. A
/// peer that sends as fast as it can thus leaves space in the mailbox for seven others that do the same.
pub(crate) const CROWDED_READ: usize = 4 << 10;
/// Payload bytes that may wait in a shard's mailbox before pushes are refused.
pub(crate) const MAILBOX_BYTES: usize = 64 << 20;
/// Encoded but undelivered room bytes above which a shard takes no more work until they are delivered.
pub(crate) const PENDING_BYTES: usize = 256 << 10;
/// Sends in one turn of a shard. During a large broadcast, other tasks of the runtime wait about 40 µs.
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
/// Time above which a handler that blocks its shard is logged. All other connections of the shard wait
/// meanwhile.
pub(crate) const SLOW_HANDLER: Duration = Duration::from_millis(5);
/// How often a shard checks its timed work when nothing shorter is set.
pub(crate) const TICK: Duration = Duration::from_secs(1);
/// Stripes of the map from names to rooms, so that cores creating rooms rarely contend.
pub(crate) const ROOM_STRIPES: usize = 16;
/// Tapped connections of one shard. Each is sent to on a slower path.
pub(crate) const TAPS: usize = 16;
/// Frames that may wait for one tap: about a second of a busy connection.
pub(crate) const TAP_FRAMES: usize = 256;
/// Bytes of each frame that a tap shows.
pub(crate) const TAP_HEAD: usize = 256;
/// Inflated length above which a tap reports a compressed message without its head. The shard itself inflates
/// it, and everything else waits.
pub(crate) const TAP_INFLATE: usize = 64 << 10;
/// Keys of changed rows of a published table that are remembered while the node is overloaded, to publish
/// later.
pub(crate) const ROWS_BEHIND: usize = 1 << 16;
