//! The only place that calls bollard. Whatever ends in a path of the engine's API comes as a [`Slot`]; answers that are
//! read whole are limited, streams are read as they come.
//!
//! bollard collects an answer whole before it reads it, so the limit is on the connection: each request has its own, and
//! one that brings more than [`ANSWER`] ends with [`TooLong`].

// clippy.toml forbids these calls everywhere else.
#![allow(clippy::disallowed_methods)]

use crate::slot::Slot;
use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::models::{
    ContainerCreateBody, ContainerCreateResponse, ContainerInspectResponse, ContainerSummary,
    CreateImageInfo, DistributionInspect, EventMessage, ExecConfig, ExecInspectResponse, ImageInspect,
    Network, NetworkCreateRequest, NetworkCreateResponse, SystemInfo, SystemVersion,
};
use bollard::query_parameters as query;
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue};
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;

type Result<T> = std::result::Result<T, Error>;

/// An engine behind a socket.
#[derive(Clone)]
pub(super) struct Engine {
    /// For answers that are read whole.
    whole: bollard::Docker,
    /// The same, for those that come from elsewhere: they may take their time.
    away: bollard::Docker,
    /// For answers that may be of any length.
    streams: bollard::Docker,
}

/// The engine said more than it may at a time.
#[derive(Debug, thiserror::Error)]
#[error("its answer is longer than {} MiB", ANSWER >> 20)]
pub(super) struct TooLong;

impl Engine {
    /// Agrees on a version of the API. `longest` is for what has no deadline of its own.
    pub(super) async fn connect(socket: &Path, longest: Duration) -> Result<Self> {
        let (text, seconds) = (socket.display().to_string(), longest.as_secs());
        // Says that there is no socket, if so.
        bollard::Docker::connect_with_unix(&text, seconds, bollard::API_DEFAULT_VERSION)?;
        let connect = |looks: Option<&'static Semaphore>, version| {
            let path = socket.to_owned();
            let transport = move |request| exchange(path.clone(), request, looks);
            let address = Some("http://docker");
            bollard::Docker::connect_with_custom_transport(transport, address, seconds, version)
        };
        let whole = connect(Some(&LOOKS), bollard::API_DEFAULT_VERSION)?.negotiate_version().await?;
        let version = whole.client_version();
        let streams = bollard::Docker::connect_with_unix(&text, seconds, &version)?;
        Ok(Self { away: connect(None, &version)?, whole, streams })
    }

    pub(super) async fn ping(&self) -> Result<()> {
        self.whole.ping().await.map(drop)
    }

    pub(super) async fn version(&self) -> Result<SystemVersion> {
        self.whole.version().await
    }

    pub(super) async fn info(&self) -> Result<SystemInfo> {
        self.whole.info().await
    }

    pub(super) async fn list_containers(
        &self,
        options: query::ListContainersOptions,
    ) -> Result<Vec<ContainerSummary>> {
        self.whole.list_containers(Some(options)).await
    }

    pub(super) async fn inspect_container(&self, id: Slot<'_>) -> Result<ContainerInspectResponse> {
        self.whole.inspect_container(id.as_str(), None).await
    }

    pub(super) async fn create_container(
        &self,
        options: query::CreateContainerOptions,
        body: ContainerCreateBody,
    ) -> Result<ContainerCreateResponse> {
        self.whole.create_container(Some(options), body).await
    }

    pub(super) async fn start_container(&self, id: Slot<'_>) -> Result<()> {
        self.whole.start_container(id.as_str(), None).await
    }

    pub(super) async fn stop_container(
        &self,
        id: Slot<'_>,
        options: query::StopContainerOptions,
        limit: Duration,
    ) -> Result<()> {
        self.whole.clone().with_timeout(limit).stop_container(id.as_str(), Some(options)).await
    }

    pub(super) async fn remove_container(
        &self,
        id: Slot<'_>,
        options: query::RemoveContainerOptions,
    ) -> Result<()> {
        self.whole.remove_container(id.as_str(), Some(options)).await
    }

    pub(super) fn logs(
        &self,
        id: Slot<'_>,
        options: query::LogsOptions,
    ) -> impl Stream<Item = Result<LogOutput>> + use<> {
        self.streams.logs(id.as_str(), Some(options))
    }

    pub(super) async fn create_exec(
        &self,
        id: Slot<'_>,
        config: ExecConfig,
    ) -> Result<bollard::exec::CreateExecResults> {
        self.whole.create_exec(id.as_str(), config).await
    }

    pub(super) async fn start_exec(&self, command: Slot<'_>) -> Result<bollard::exec::StartExecResults> {
        self.streams.start_exec(command.as_str(), None).await
    }

    pub(super) async fn inspect_exec(&self, command: Slot<'_>) -> Result<ExecInspectResponse> {
        self.whole.inspect_exec(command.as_str()).await
    }

    pub(super) async fn inspect_image(&self, image: Slot<'_>) -> Result<ImageInspect> {
        self.whole.inspect_image(image.as_str()).await
    }

    /// What a registry says of an image.
    pub(super) async fn inspect_registry_image(
        &self,
        image: Slot<'_>,
        login: Option<HeaderValue>,
    ) -> Result<DistributionInspect> {
        with_login(&self.away, login).inspect_registry_image(image.as_str(), None).await
    }

    /// Fetches an image from its registry, step by step.
    pub(super) fn create_image(
        &self,
        options: query::CreateImageOptions,
        login: Option<HeaderValue>,
    ) -> impl Stream<Item = Result<CreateImageInfo>> + use<> {
        with_login(&self.streams, login).create_image(Some(options), None, None)
    }

    pub(super) async fn tag_image(&self, image: Slot<'_>, options: query::TagImageOptions) -> Result<()> {
        self.whole.tag_image(image.as_str(), Some(options)).await
    }

    pub(super) fn export_image(&self, image: Slot<'_>) -> impl Stream<Item = Result<Bytes>> + use<> {
        self.streams.export_image(image.as_str())
    }

    pub(super) async fn import_image<S, E>(
        &self,
        options: query::ImportImageOptions,
        tar: S,
        limit: Duration,
    ) -> Result<()>
    where
        S: Stream<Item = std::result::Result<Bytes, E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    {
        let api = self.streams.clone().with_timeout(limit);
        api.import_image_stream(options, tar, None).try_for_each(|_| async { Ok(()) }).await
    }

    pub(super) fn events(
        &self,
        options: query::EventsOptions,
    ) -> impl Stream<Item = Result<EventMessage>> + Send + use<> {
        self.streams.events(Some(options))
    }

    pub(super) async fn list_networks(&self, options: query::ListNetworksOptions) -> Result<Vec<Network>> {
        self.whole.list_networks(Some(options)).await
    }

    pub(super) async fn create_network(&self, wanted: NetworkCreateRequest) -> Result<NetworkCreateResponse> {
        self.whole.create_network(wanted).await
    }

    pub(super) async fn remove_network(&self, id: Slot<'_>) -> Result<()> {
        self.whole.remove_network(id.as_str()).await
    }
}

/// In a header of its own: bollard would write it in a kind of base64 that the engine does not always take.
fn with_login(api: &bollard::Docker, login: Option<HeaderValue>) -> bollard::Docker {
    let Some(login) = login else { return api.clone() };
    api.clone().with_request_modifier(move |mut request| {
        request.headers_mut().insert(LOGIN, login.clone());
        request
    })
}

/// One request on a connection of its own.
async fn exchange(
    socket: PathBuf,
    request: bollard::BollardRequest,
    looks: Option<&'static Semaphore>,
) -> Result<Response<Incoming>> {
    // Kept by the connection, so until the answer is read or given up. What changes something may take minutes, and
    // what it answers is short.
    let turn = match looks.filter(|_| request.method() == Method::GET) {
        Some(looks) => Some(looks.acquire().await.map_err(io::Error::other)?),
        None => None,
    };
    let stream = Limited { stream: UnixStream::connect(&socket).await?, left: ANSWER };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        let _turn = turn;
        // How it ended is said to who reads the answer.
        let _ = connection.await;
    });
    let (mut parts, body) = request.into_parts();
    if let Some(path) = parts.uri.path_and_query().cloned() {
        parts.uri = Uri::from(path);
    }
    parts.headers.insert(HOST, HeaderValue::from_static("docker"));
    Ok(sender.send_request(Request::from_parts(parts, body)).await?)
}

/// A connection that brings so many bytes and no more.
struct Limited {
    stream: UnixStream,
    left: usize,
}

impl AsyncRead for Limited {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let came = buffer.filled().len() - before;
        match self.left.checked_sub(came) {
            Some(left) => self.left = left,
            None => return Poll::Ready(Err(io::Error::other(TooLong))),
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Limited {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Docker Engine API, "Authentication".
const LOGIN: &str = "x-registry-auth";
/// Bytes of an answer that is read whole: a list of a thousand containers is two megabytes.
const ANSWER: usize = 8 << 20;
/// Inspections and lists under way in this process.
static LOOKS: Semaphore = Semaphore::const_new(16);
