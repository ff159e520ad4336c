//! The traits that the Rust API guidelines ask of public types.

use std::{error::Error as StdError, fmt::Debug, hash::Hash};

use ripplecast::{
    Accept, App, AppBuilder, Backend, Bound, Bus, Close, CloseCode, Connection, ConnectionId, Counter,
    Dropped, Error, FileOptions, Hub, HubBuilder, LiveCounter, LiveTable, Message, NodeId, Overflow, Queue,
    Reach, Request, Room, RoomOptions, SameOrigin, Sent, Table, Tls, TrustedProxies, User, bus, codec, error,
    log, queue, request, same_origin, sse, state, stats, tap, ws,
};

/// Checks at compile time that each type implements the traits.
macro_rules! implement {
    ([$($bound:path),+] $($type:ty),+ $(,)?) => {{
        fn check<T: $($bound +)+ 'static>() {}
        $(check::<$type>();)+
    }};
}

/// Handles, options and reports can be moved to any task, and printed.
#[test]
fn public_types_are_send_sync_and_debug() {
    implement!([Send, Sync, Debug]
        Accept, App, AppBuilder, Backend, Bound, Bus, Close, CloseCode, Connection, ConnectionId, Counter,
        Dropped, Error, FileOptions, Hub, HubBuilder, LiveCounter, LiveTable<u8>, Message, NodeId, Overflow,
        Queue, Reach, Request, Room, RoomOptions, SameOrigin, Sent, Table<u8>, Tls, TrustedProxies, User,
        bus::BusMessage, bus::Subscription, codec::Decoder, codec::Event<'static>, codec::Opcode,
        codec::Payload<'static>, log::Cut<u8>, log::Limit, queue::DeadLetter, queue::GroupStatus,
        queue::MessageId, queue::QueueCounts, queue::QueueMessage, queue::QueueOptions, queue::QueueStatus,
        queue::QueueSubscription, request::Authority, same_origin::SameOriginService<u8>, sse::Endpoint,
        state::Cursor, state::Page<u8>, state::TableBuilder<u8>, state::TableIter<u8>, stats::DropReport,
        stats::Drops, stats::GapReport, stats::RemoteStats, stats::Stats, tap::Direction, tap::FrameKind,
        tap::Tap, tap::TappedFrame, ws::Compression, ws::Endpoint<u8>, ws::OriginPolicy,
    );
}

/// Handles are shared by cloning them.
#[test]
fn handles_and_settings_can_be_cloned() {
    implement!([Clone]
        AppBuilder, Backend, Bus, Connection, Counter, FileOptions, Hub, HubBuilder, LiveCounter,
        LiveTable<u8>, Message, Queue, Room, RoomOptions, SameOrigin, Table<u8>, Tls, TrustedProxies, User,
        queue::QueueOptions, sse::Endpoint, ws::Compression, ws::OriginPolicy,
    );
}

#[test]
fn errors_can_be_boxed() {
    implement!([StdError, Send, Sync]
        Error, codec::ProtocolError, error::BackendError, error::BusError, error::ParseIdError,
        error::QueueError, error::StateError,
    );
}

#[test]
fn small_values_can_be_compared_and_hashed() {
    implement!([Clone, Eq, Hash]
        Close, CloseCode, ConnectionId, Dropped, NodeId, Overflow, Reach, Sent, codec::Opcode,
        queue::MessageId, request::Authority, state::Cursor, tap::Direction, tap::FrameKind,
        ws::Compression,
    );
    implement!([Clone, Eq]
        FileOptions, RoomOptions, TrustedProxies, queue::QueueOptions, ws::OriginPolicy,
    );
}

/// Reports can be returned as JSON, such as by an endpoint for operators.
#[tokio::test]
async fn reports_are_serialized() {
    let hub = Hub::builder().build().unwrap();
    let _room = hub.room("lobby");
    let stats = serde_json::to_value(hub.stats()).unwrap();
    assert_eq!(stats["rooms"], 1);
    assert_eq!(stats["drops"]["shed"], 0);
    assert_eq!(stats["remote"]["degraded"], false);
    hub.queue("orders").publish("7").await.unwrap();
    let status = serde_json::to_value(hub.queue("orders").status().await.unwrap()).unwrap();
    assert_eq!(status["length"], 1);
    assert!(status["last"].is_string(), "{status}");
}
