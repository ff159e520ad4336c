//! The connections that a page can watch, by the tab that they belong to.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ripplecast::ConnectionId;

/// The most connections that can watch one tab. A tab normally has one watcher.
pub(crate) const WATCHERS: usize = 4;

/// The random id that a tab gives itself, so that its page can watch its socket: `?tab=…`.
pub(crate) struct Tab(pub(crate) String);

/// The counter's connections on this node, by tab. Clones share the same map.
#[derive(Clone, Default)]
pub(crate) struct Watched(Arc<Mutex<HashMap<String, Vec<ConnectionId>>>>);

impl Watched {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Vec<ConnectionId>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a connection of a tab. A tab normally has one; beyond [`WATCHERS`], further ones are ignored.
    pub(crate) fn add(&self, tab: &Tab, id: ConnectionId) {
        let mut tabs = self.lock();
        let own = tabs.entry(tab.0.clone()).or_default();
        if own.len() < WATCHERS {
            own.push(id);
        }
    }

    /// Removes a connection of a tab.
    pub(crate) fn remove(&self, tab: &Tab, id: ConnectionId) {
        let mut tabs = self.lock();
        if let Some(own) = tabs.get_mut(&tab.0) {
            own.retain(|&known| known != id);
            if own.is_empty() {
                tabs.remove(&tab.0);
            }
        }
    }

    /// Returns the connections of a tab. The cost does not depend on other tabs.
    pub(crate) fn of(&self, tab: &Tab) -> Vec<ConnectionId> {
        self.lock().get(&tab.0).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> ConnectionId {
        format!("{:016x}-{n:016x}", 7).parse().unwrap()
    }

    #[test]
    fn connections_of_a_tab_are_indexed_and_bounded() {
        let watched = Watched::default();
        let tab = |n: usize| Tab(format!("{n:032x}"));
        for n in 0..1_000 {
            watched.add(&tab(n), id(n));
        }
        assert_eq!(watched.of(&tab(7)), [id(7)]);
        assert!(watched.of(&tab(1_000)).is_empty());
        // A client opens one tab's connection over and over.
        for n in 2_000..3_000 {
            watched.add(&tab(7), id(n));
        }
        assert_eq!(watched.of(&tab(7)).len(), WATCHERS);
        for n in (0..1_000).map(|n| (n, n)).chain((2_000..3_000).map(|n| (7, n))) {
            watched.remove(&tab(n.0), id(n.1));
        }
        assert!(watched.lock().is_empty(), "closed connections leave nothing behind");
    }
}
