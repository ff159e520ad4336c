//! The bus over Redis publish and subscribe. A published message returns through Redis even to the
//! subscriptions of its own node, so all nodes see the same order of messages on a topic.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Bus, BusBackend, BusHandler, BusOptions, Subscription, memory::MemoryBus};
use crate::{
    cluster::{Body, ReplayFilter, Signer},
    error::BusError,
    glob::Pattern,
    redis_client::{Channel, Redis, Subscribed, SubscriptionEvent},
    reply::Reply,
};

impl Bus {
    /// Creates a bus over Redis.
    pub(crate) fn redis(redis: Redis, signer: Arc<Signer>) -> Self {
        Self { backend: Arc::new(RedisBus::new(redis, signer)) }
    }
}

struct RedisBus {
    redis: Redis,
    /// Signs published messages if nodes share a secret.
    signer: Arc<Signer>,
    /// Subscriptions of this node; `None` once the bus is closed.
    shared: Mutex<Option<HashMap<Channel, Weak<SharedSubscription>>>>,
    /// Subscriptions kept until the bus ends.
    kept: Arc<Mutex<Vec<Arc<SharedSubscription>>>>,
}

/// A subscription at Redis, shared by all subscriptions of this node to the same topic or pattern.
struct SharedSubscription {
    /// Delivers messages to the subscriptions of this node.
    local: MemoryBus,
    subscribed: Mutex<Option<Arc<Subscribed>>>,
}

impl RedisBus {
    /// Creates a bus over Redis.
    fn new(redis: Redis, signer: Arc<Signer>) -> Self {
        Self { redis, signer, shared: Mutex::new(Some(HashMap::new())), kept: Arc::default() }
    }

    /// Returns the Redis channel or pattern and its shared subscription, created if necessary. Returns `None`
    /// once the bus is closed.
    fn shared(&self, pattern: &str) -> Option<(Arc<SharedSubscription>, Arc<Subscribed>)> {
        let topic = match Pattern::parse(pattern) {
            Pattern::Exact(name) => Channel::Exact(self.redis.key("bus", &name, "")),
            Pattern::Glob(glob) => Channel::Pattern(self.redis.pattern("bus", &glob.to_redis())),
        };
        let mut all = self.shared.lock();
        let all = all.as_mut()?;
        all.retain(|_, shared| shared.strong_count() > 0);
        if let Some(shared) = all.get(&topic).and_then(Weak::upgrade) {
            let subscribed = shared.subscribed.lock().clone();
            if let Some(subscribed) = subscribed {
                return Some((shared, subscribed));
            }
        }
        let shared =
            Arc::new(SharedSubscription { local: MemoryBus::default(), subscribed: Mutex::default() });
        let (weak, redis, signer) = (Arc::downgrade(&shared), self.redis.clone(), self.signer.clone());
        let replays = Mutex::new(ReplayFilter::default());
        let subscribed = self.redis.subscribe(topic.clone(), move |event| {
            let (Some(shared), SubscriptionEvent::Message { channel: topic, payload }) =
                (weak.upgrade(), event)
            else {
                return;
            };
            let Some(name) = redis.name("bus", &topic) else { return };
            let payload = if signer.has_secret() {
                let message = replays.lock().verify(&signer, &redis.key("bus", &name, ""), payload);
                match message.map(|message| message.body) {
                    Some(Body::Bus { payload }) => Some(payload),
                    _ => None,
                }
            } else {
                Some(payload)
            };
            if let Some(payload) = payload {
                // This completes at once. Messages dropped by a full queue are counted and logged.
                drop(shared.local.publish(&name, payload));
            } else {
                signer.count_rejected();
            }
        });
        let subscribed = Arc::new(subscribed);
        *shared.subscribed.lock() = Some(subscribed.clone());
        all.insert(topic, Arc::downgrade(&shared));
        Some((shared, subscribed))
    }
}

impl BusBackend for RedisBus {
    fn publish<'a>(&'a self, topic: &'a str, payload: Bytes) -> Reply<'a, usize> {
        Reply::later(async move {
            let mut publish = redis::cmd(self.redis.publish_command());
            let topic = self.redis.key("bus", topic, "");
            let payload = if self.signer.has_secret() {
                self.signer.sign(&topic, Body::Bus { payload })
            } else {
                payload
            };
            publish.arg(&topic).arg(&payload[..]);
            self.redis.run(&publish).await
        })
    }

    fn subscribe(&self, pattern: &str, options: BusOptions, handler: BusHandler) -> Reply<'_, Subscription> {
        if self.redis.is_cluster() && matches!(Pattern::parse(pattern), Pattern::Glob(_)) {
            return Reply::now(Err(BusError::PatternOnCluster { pattern: pattern.to_owned() }));
        }
        let pattern = pattern.to_owned();
        Reply::later(async move {
            let Some((shared, subscribed)) = self.shared(&pattern) else {
                let local = MemoryBus::default();
                local.close();
                return local.subscribe(&pattern, options, handler).await; // already ended, as in every closed bus
            };
            // Subscribe locally before Redis confirms, so that no message published after the reply is
            // missed.
            let subscription = shared.local.subscribe(&pattern, options, handler).await?;
            subscribed.ready().await?;
            let kept = self.kept.clone();
            let (own, theirs) = (shared.clone(), shared);
            Ok(subscription.with(move || drop(own), move || kept.lock().push(theirs)))
        })
    }

    fn close(&self) {
        let all = self.shared.lock().take().unwrap_or_default();
        for shared in all.into_values().filter_map(|shared| shared.upgrade()) {
            shared.local.close();
            drop(shared.subscribed.lock().take()); // a handle still held must not keep the connection open
        }
        self.kept.lock().clear();
    }
}

impl Drop for RedisBus {
    fn drop(&mut self) {
        self.close();
    }
}
