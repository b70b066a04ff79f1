//! Threads that can be told to stop, are joined when dropped, and whose failure ends the process.

use super::error::Error;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

/// A latch that any number of threads can poll.
#[derive(Clone)]
pub(super) struct Latch(Arc<EventFd>);

/// Where a worker leaves the error it died of.
#[derive(Clone)]
pub(super) struct Fatal {
    latch: Latch,
    error: Arc<Mutex<Option<Error>>>,
}

/// A running thread.
pub(super) struct Worker {
    stop: Latch,
    thread: Option<JoinHandle<()>>,
}

impl Latch {
    pub(super) fn new() -> Result<Self, Error> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        event.map(|event| Self(Arc::new(event))).map_err(Error::own("make an eventfd"))
    }

    /// Once set it stays set: nobody reads the counter back.
    pub(super) fn set(&self) {
        let _ = self.0.write(1);
    }

    /// Waits until `fd` has something to read. False: the latch is set.
    pub(super) fn wait_readable(&self, fd: BorrowedFd<'_>) -> Result<bool, Error> {
        let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN), PollFd::new(fd, PollFlags::POLLIN)];
        wait(&mut fds, PollTimeout::NONE)?;
        Ok(fds[0].any() != Some(true))
    }

    /// Waits for `milliseconds`. False: the latch is set.
    pub(super) fn wait_for(&self, milliseconds: u8) -> Result<bool, Error> {
        let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        wait(&mut fds, PollTimeout::from(milliseconds))?;
        Ok(fds[0].any() != Some(true))
    }
}

impl AsFd for Latch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Fatal {
    pub(super) fn new() -> Result<Self, Error> {
        Ok(Self { latch: Latch::new()?, error: Arc::new(Mutex::new(None)) })
    }

    /// Set once there is an error to take.
    pub(super) fn latch(&self) -> &Latch {
        &self.latch
    }

    /// The first error, once.
    pub(super) fn take(&self) -> Option<Error> {
        self.error.lock().ok().and_then(|mut error| error.take())
    }

    fn report(&self, error: Error) {
        if let Ok(mut slot) = self.error.lock() {
            slot.get_or_insert(error);
        }
        self.latch.set();
    }
}

impl Worker {
    /// Starts `body`, which is to return when its latch is set.
    pub(super) fn spawn(
        name: &str,
        fatal: &Fatal,
        body: impl FnOnce(&Latch) -> Result<(), Error> + Send + 'static,
    ) -> Result<Self, Error> {
        let stop = Latch::new()?;
        let (latch, fatal, owned) = (stop.clone(), fatal.clone(), name.to_owned());
        let run = move || match catch_unwind(AssertUnwindSafe(|| body(&latch))) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => fatal.report(error),
            Err(_) => fatal.report(Error::Panicked(owned)),
        };
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(run)
            .map_err(|source| Error::Spawn { name: name.to_owned(), source })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.set();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// poll(2) that starts over when a signal comes.
pub(super) fn wait(fds: &mut [PollFd<'_>], timeout: PollTimeout) -> Result<(), Error> {
    loop {
        match poll(fds, timeout) {
            Ok(_) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(Error::own("poll")(errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_worker_stops_and_is_joined() {
        let fatal = Fatal::new().unwrap();
        let worker = Worker::spawn("idle", &fatal, |stop| {
            while stop.wait_for(250)? {}
            Ok(())
        });
        drop(worker.unwrap());
        assert!(fatal.take().is_none());
    }

    #[test]
    fn a_panic_is_reported() {
        let fatal = Fatal::new().unwrap();
        drop(Worker::spawn("broken", &fatal, |_| panic!("on purpose")).unwrap());
        assert!(matches!(fatal.take(), Some(Error::Panicked(name)) if name == "broken"));
    }
}
