//! The control socket: `<uapi-dir>/<interface>.sock`, mode 0600, where the `wg` tool looks.
//!
//! One thread serves every connection by poll(2); a request is answered before the next is looked at. Buffers
//! hold private keys, so they are wiped, also when they grow.

use super::device::Device;
use super::error::Error;
use super::uapi::{self, Refusal, Request};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::stat::{Mode, umask};
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use zeroize::{Zeroize, Zeroizing};

/// The listening socket and its connections. The file is removed when this is dropped.
pub(super) struct Server {
    path: PathBuf,
    /// Inode of our socket: the file may have been replaced meanwhile.
    inode: u64,
    listener: UnixListener,
    connections: Vec<Connection>,
}

struct Connection {
    stream: UnixStream,
    input: Zeroizing<Vec<u8>>,
    output: Zeroizing<Vec<u8>>,
    written: usize,
}

impl Server {
    /// Listens. The socket of a dead process is replaced, that of a live one is an error.
    pub(super) fn bind(directory: &Path, interface: &str) -> Result<Self, Error> {
        let path = directory.join(format!("{interface}.sock"));
        let failed = |source: io::Error| Error::Socket { path: path.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        clear_stale(&path)?;
        // The mode must be right from the first moment. No other thread runs yet, so the mask disturbs nobody.
        let mask = umask(Mode::from_bits_truncate(0o177));
        let listener = UnixListener::bind(&path);
        umask(mask);
        let listener = listener.map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let inode = fs::symlink_metadata(&path).map_err(failed)?.ino();
        Ok(Self { path, inode, listener, connections: Vec::new() })
    }

    /// What to wait for before the next [`Server::serve`].
    pub(super) fn interests(&self) -> Vec<PollFd<'_>> {
        // A full house must not look at the door: poll would return at once, for ever.
        let full = self.connections.len() >= MAX_CONNECTIONS;
        let door = if full { PollFlags::empty() } else { PollFlags::POLLIN };
        let listener = PollFd::new(self.listener.as_fd(), door);
        let connection = |connection: &'_ Connection| match connection.output.is_empty() {
            true => PollFlags::POLLIN,
            false => PollFlags::POLLOUT,
        };
        std::iter::once(listener)
            .chain(self.connections.iter().map(|c| PollFd::new(c.stream.as_fd(), connection(c))))
            .collect()
    }

    /// Does whatever can be done without waiting.
    pub(super) fn serve(&mut self, device: &mut Device) {
        while self.connections.len() < MAX_CONNECTIONS {
            let Ok((stream, _)) = self.listener.accept() else { break };
            if stream.set_nonblocking(true).is_ok() {
                self.connections.push(Connection::new(stream));
            }
        }
        self.connections.retain_mut(|connection| match connection.advance(device) {
            Ok(open) => open,
            Err(error) => {
                tracing::debug!(%error, "control connection lost");
                false
            }
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Connection {
    fn new(stream: UnixStream) -> Self {
        Self { stream, input: Zeroizing::default(), output: Zeroizing::default(), written: 0 }
    }

    /// Reads, answers and writes until one of them would wait. False: the other side has closed.
    fn advance(&mut self, device: &mut Device) -> io::Result<bool> {
        let mut open = true;
        loop {
            if !self.write()? {
                return Ok(true);
            }
            if let Some(request) = self.next_request() {
                self.output = answer(&request, device);
            } else if !open {
                return Ok(false);
            } else {
                match self.read()? {
                    Some(true) => {}
                    Some(false) => open = false,
                    None => return Ok(true),
                }
            }
        }
    }

    /// False: the answer is not out yet and the other side does not read.
    fn write(&mut self) -> io::Result<bool> {
        while self.written < self.output.len() {
            match self.stream.write(&self.output[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.output.zeroize();
        self.written = 0;
        Ok(true)
    }

    /// False: end of file. None: nothing to read now.
    fn read(&mut self) -> io::Result<Option<bool>> {
        let mut chunk = Zeroizing::new([0; 65_536]);
        match self.stream.read(&mut *chunk) {
            Ok(0) => Ok(Some(false)),
            Ok(count) => {
                append(&mut self.input, &chunk[..count])?;
                Ok(Some(true))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(Some(true)),
            Err(error) => Err(error),
        }
    }

    /// Takes a request off the input, without the empty line that ends it.
    fn next_request(&mut self) -> Option<Zeroizing<Vec<u8>>> {
        let end = self.input.windows(2).position(|pair| pair == b"\n\n")?;
        let request = Zeroizing::new(self.input[..=end].to_vec());
        self.input = Zeroizing::new(self.input[end + 2..].to_vec());
        Some(request)
    }
}

fn answer(request: &[u8], device: &mut Device) -> Zeroizing<Vec<u8>> {
    let result = uapi::parse(request).and_then(|request| match request {
        Request::Get => Ok(std::mem::take(&mut *uapi::format(&device.view()))),
        Request::Set(set) => device.set(set).map(|()| uapi::status(Ok(()))),
    });
    let refused = |refusal: Refusal| {
        tracing::warn!(%refusal, "request refused");
        uapi::status(Err(&refusal))
    };
    Zeroizing::new(result.unwrap_or_else(refused).into_bytes())
}

/// `Vec::extend` would leave the old copy in freed memory when it moves.
fn append(input: &mut Zeroizing<Vec<u8>>, chunk: &[u8]) -> io::Result<()> {
    let wanted = input.len() + chunk.len();
    if wanted > MAX_REQUEST {
        return Err(Errno::EMSGSIZE.into());
    }
    if wanted > input.capacity() {
        let mut larger = Zeroizing::new(Vec::with_capacity(wanted.next_power_of_two()));
        larger.extend_from_slice(input);
        *input = larger;
    }
    input.extend_from_slice(chunk);
    Ok(())
}

fn clear_stale(path: &Path) -> Result<(), Error> {
    let failed = |source| Error::Socket { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(Error::SocketBlocked(path.to_owned()));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(Error::SocketLive(path.to_owned())),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(failed),
        Err(error) => Err(failed(error)),
    }
}

/// Bytes. 10,000 peers with four prefixes each take about 5 MB.
const MAX_REQUEST: usize = 16 << 20;

/// More wait in the backlog of the socket.
const MAX_CONNECTIONS: usize = 64;
