//! What few connections have, so that an idle one need not pay for it: user state, a client id, somebody who waits.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    sync::Arc,
};

use tokio::sync::oneshot;

use crate::id::Local;

/// The details of all connections of a shard that have any; lives under the lock of its mailbox.
#[derive(Default)]
pub(crate) struct Details(HashMap<u64, Detail>);

/// The details of one connection.
#[derive(Default)]
struct Detail {
    /// The user's state, one value of each type.
    states: Vec<(TypeId, Arc<dyn Any + Send + Sync>)>,
    /// The client that it was identified as.
    client: Option<Arc<str>>,
    /// What lives as long as the connection, such as the publisher of a room that it joined; by address.
    kept: HashMap<usize, Arc<dyn Any + Send + Sync>>,
    /// Those who wait for it to close: dropping these tells them.
    waiting: Vec<oneshot::Sender<()>>,
}

impl Details {
    /// Keeps a state; the former value of that type, if any, is returned.
    pub(crate) fn set_state(
        &mut self,
        who: Local,
        state: Arc<dyn Any + Send + Sync>,
    ) -> Option<Arc<dyn Any + Send + Sync>> {
        let id = (*state).type_id();
        let states = &mut self.0.entry(who.pack()).or_default().states;
        match states.iter_mut().find(|(known, _)| *known == id) {
            Some((_, value)) => Some(std::mem::replace(value, state)),
            None => {
                states.push((id, state));
                None
            }
        }
    }

    /// Keeps something alive for as long as the connection, once.
    pub(crate) fn keep(&mut self, who: Local, thing: Arc<dyn Any + Send + Sync>) {
        let address = Arc::as_ptr(&thing).addr();
        self.0.entry(who.pack()).or_default().kept.insert(address, thing);
    }

    /// The state of that type.
    pub(crate) fn state(&self, who: Local, id: TypeId) -> Option<Arc<dyn Any + Send + Sync>> {
        let states = &self.0.get(&who.pack())?.states;
        states.iter().find(|(known, _)| *known == id).map(|(_, value)| value.clone())
    }

    /// The client that it was identified as.
    pub(crate) fn client(&self, who: Local) -> Option<Arc<str>> {
        self.0.get(&who.pack())?.client.clone()
    }

    /// Notes the client; the former one is returned.
    pub(crate) fn set_client(&mut self, who: Local, client: Arc<str>) -> Option<Arc<str>> {
        self.0.entry(who.pack()).or_default().client.replace(client)
    }

    /// Something that ends when the connection closes.
    pub(crate) fn wait(&mut self, who: Local) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        let waiting = &mut self.0.entry(who.pack()).or_default().waiting;
        waiting.retain(|earlier| !earlier.is_closed());
        waiting.push(sender);
        receiver
    }

    /// The connection counts as closed from now on; its state stays until [`Details::remove`].
    pub(crate) fn closed(&mut self, who: Local) {
        if let Some(detail) = self.0.get_mut(&who.pack()) {
            detail.waiting.clear();
        }
    }

    /// Forgets the connection. What is returned is to be dropped outside the lock: it is the user's.
    pub(crate) fn remove(&mut self, who: Local) -> Option<impl Sized + use<>> {
        let removed = self.0.remove(&who.pack());
        if self.0.is_empty() {
            self.0.shrink_to_fit();
        }
        removed
    }
}
