//! Data that few connections have, stored separately so that idle connections do not pay for it.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    sync::Arc,
};

use tokio::sync::oneshot;

use crate::id::Local;

/// The extra data of a shard's connections, guarded by the lock of the shard's mailbox.
#[derive(Default)]
pub(crate) struct Extras(HashMap<u64, ConnectionExtras>);

/// The extra data of one connection.
#[derive(Default)]
struct ConnectionExtras {
    /// Values stored by the application, one of each type.
    states: Vec<(TypeId, Arc<dyn Any + Send + Sync>)>,
    /// The user that it was identified as.
    user: Option<Arc<str>>,
    /// Values that live as long as the connection, such as the publisher of a room that it joined; by address.
    kept: HashMap<usize, Arc<dyn Any + Send + Sync>>,
    /// Dropping these notifies the tasks that wait for the close.
    waiting: Vec<oneshot::Sender<()>>,
}

impl Extras {
    /// Stores a value. Returns the earlier value of that type.
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

    /// Returns the value of that type.
    pub(crate) fn state(&self, who: Local, id: TypeId) -> Option<Arc<dyn Any + Send + Sync>> {
        let states = &self.0.get(&who.pack())?.states;
        states.iter().find(|(known, _)| *known == id).map(|(_, value)| value.clone())
    }

    /// Returns the user that the connection was identified as.
    pub(crate) fn user(&self, who: Local) -> Option<Arc<str>> {
        self.0.get(&who.pack())?.user.clone()
    }

    /// Sets the user. Returns the earlier one.
    pub(crate) fn set_user(&mut self, who: Local, user: Arc<str>) -> Option<Arc<str>> {
        self.0.entry(who.pack()).or_default().user.replace(user)
    }

    /// Returns a receiver that ends when the connection closes.
    pub(crate) fn wait(&mut self, who: Local) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        let waiting = &mut self.0.entry(who.pack()).or_default().waiting;
        waiting.retain(|earlier| !earlier.is_closed());
        waiting.push(sender);
        receiver
    }

    /// Notifies the tasks that wait for the close. The stored values stay until [`Extras::remove`].
    pub(crate) fn closed(&mut self, who: Local) {
        if let Some(extras) = self.0.get_mut(&who.pack()) {
            extras.waiting.clear();
        }
    }

    /// Removes the connection. Drop the result outside the lock: its destructor is application code.
    pub(crate) fn remove(&mut self, who: Local) -> Option<impl Sized + use<>> {
        let removed = self.0.remove(&who.pack());
        if self.0.is_empty() {
            self.0.shrink_to_fit();
        }
        removed
    }
}
