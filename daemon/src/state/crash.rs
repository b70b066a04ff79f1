//! A process that is killed in front of any of its effects. Every change of the disk and of a node in memory comes here first,
//! on the thread of its test; what the changes are made on outlives the process.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use tokio::sync::Notify;

thread_local! {
    static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
    static KILLED: RefCell<Arc<Notify>> = RefCell::default();
}

/// What unwinds out of an effect that is not reached.
struct Killed;

/// One effect; does not return where the process is killed in front of it.
pub fn effect() {
    match LEFT.get() {
        None => {}
        Some(0) => {
            KILLED.with_borrow(|killed| killed.notify_one());
            // A task of the runtime ends by it alone, and the process by the notification.
            resume_unwind(Box::new(Killed));
        }
        Some(left) => LEFT.set(Some(left - 1)),
    }
}

/// Runs `work` and all tasks it spawns as one process that has `effects` effects, or as many as it likes; `None` when it was
/// killed in front of the next.
pub fn process<T>(effects: Option<usize>, work: impl Future<Output = T>) -> Option<T> {
    let killed: Arc<Notify> = Arc::default();
    KILLED.set(killed.clone());
    LEFT.set(effects);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let done = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            // Cancel-safe: what is dropped is dead.
            tokio::select! { biased; () = killed.notified() => None, done = work => Some(done) }
        })
    }));
    drop(runtime);
    LEFT.set(None);
    match done {
        Ok(done) => done,
        Err(payload) if payload.is::<Killed>() => None,
        Err(payload) => resume_unwind(payload),
    }
}
