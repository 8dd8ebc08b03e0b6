//! How a worker reads the current snapshot.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;

use crate::snapshot::Snapshot;

/// A request's hold on one snapshot. Cloning counts within the worker only, so that requests on
/// different workers never write to the same counter.
pub type Pin = Rc<Arc<Snapshot>>;

/// One per worker.
pub struct Reader {
    state: RefCell<State>,
}

struct State {
    cache: Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
    pin: Pin,
}

impl Reader {
    pub fn new(shared: Arc<ArcSwap<Snapshot>>) -> Self {
        let mut cache = Cache::new(shared);
        let pin = Rc::new(cache.load().clone());
        Reader {
            state: RefCell::new(State { cache, pin }),
        }
    }

    /// The current snapshot.
    pub fn pin(&self) -> Pin {
        let state = &mut *self.state.borrow_mut();
        let current = state.cache.load();
        if !Arc::ptr_eq(current, &state.pin) {
            state.pin = Rc::new(current.clone());
        }
        state.pin.clone()
    }

    /// Whether `pin` is of the current snapshot: one load and a comparison, unless it changed.
    pub fn is_current(&self, pin: &Pin) -> bool {
        Arc::ptr_eq(self.state.borrow_mut().cache.load(), pin)
    }
}
