//! Images of an engine: found, named, taken out and taken in as streams. What a stream holds is nobody's here: it goes
//! through in pieces and is never whole in memory.

use crate::docker::{Docker, INSPECT_TIMEOUT, limited};
use crate::error::{DockerError, Result};
use crate::read;
use crate::slot::Slot;
use bollard::query_parameters::{ImportImageOptionsBuilder, TagImageOptionsBuilder};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use ployz_core::deploy::image::content;
use ployz_core::id::ImageId;
use ployz_core::wire::v1::image::ImageFacts;
use ployz_core::wire::v1::manifest::ImageRef;
use std::time::Duration;

/// An image as an engine has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What makes it that one.
    pub facts: ImageFacts,
    /// Bytes it takes.
    pub size: u64,
}

impl Docker {
    /// The image behind a name or an id; `None` when this engine has none.
    pub async fn find_image(&self, reference: &str) -> Result<Option<Found>> {
        let work = self.api.inspect_image(Slot::image(reference)?);
        match limited("inspect image", reference, INSPECT_TIMEOUT, work).await {
            Ok(found) => {
                let id = read::image_id(&found)?;
                let created = found.created.clone().filter(|text| !text.is_empty());
                let size = found.size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
                let content = content(&read::image(found));
                Ok(Some(Found { facts: ImageFacts { id, content, created }, size }))
            }
            Err(DockerError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lets a name (`repository:tag`) lead to an image, wherever it led before.
    pub async fn name_image(&self, id: &ImageId, name: &ImageRef) -> Result<()> {
        let name = name.as_str();
        // A colon before the last slash is the registry's port.
        let (repository, tag) = match name.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => (repository, tag),
            _ => (name, "latest"),
        };
        let options = TagImageOptionsBuilder::new().repo(repository).tag(tag).build();
        let work = self.api.tag_image(Slot::image(id.as_str())?, options);
        limited("name image", name, INSPECT_TIMEOUT, work).await
    }

    /// An image as a tar stream, as `docker save` writes it. A pause of [`EXPORT_TIMEOUT`] ends it with an error.
    pub fn save(&self, image: &ImageRef) -> Result<impl Stream<Item = Result<Bytes>> + Send + use<>> {
        let subject = image.to_string();
        let pieces = self.api.export_image(Slot::image(image.as_str())?);
        let pieces = tokio_stream::StreamExt::timeout(pieces, EXPORT_TIMEOUT);
        Ok(pieces.map(move |piece| match piece {
            Ok(piece) => piece.map_err(|error| DockerError::of("save image", &subject, error)),
            Err(_) => Err(DockerError::Late {
                operation: "save image",
                subject: subject.clone(),
                limit: EXPORT_TIMEOUT,
            }),
        }))
    }

    /// Takes in images from a tar stream, as `docker load` reads it. An error of the stream ends it, and then nothing
    /// was taken in. The stream's own deadlines count until it is over, [`IMPORT_TIMEOUT`] afterwards.
    pub async fn load<E>(
        &self,
        tar: impl Stream<Item = std::result::Result<Bytes, E>> + Send + 'static,
    ) -> Result<()>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    {
        let (over, ended) = tokio::sync::oneshot::channel::<()>();
        let mut held = Some(over);
        let last = futures_util::stream::poll_fn(move |_| {
            drop(held.take());
            std::task::Poll::Ready(None)
        });
        let options = ImportImageOptionsBuilder::new().quiet(true).build();
        let work = self.api.import_image(options, tar.chain(last), UPLOAD_TIMEOUT);
        let late = async {
            // The sender is dropped with the stream: at its end, or when nobody reads it any more.
            let _ = ended.await;
            tokio::time::sleep(IMPORT_TIMEOUT).await;
        };
        // Cancel-safe: whichever ends first decides, and nothing is polled after that.
        tokio::select! {
            done = work => done.map_err(|error| DockerError::of("load", "image", error)),
            () = late => {
                Err(DockerError::Late { operation: "load", subject: "image".to_owned(), limit: IMPORT_TIMEOUT })
            }
        }
    }
}

/// Docker's own store writes a whole image to its disk before the first byte of it comes.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(900);
/// From the last byte until the engine has the image.
const IMPORT_TIMEOUT: Duration = Duration::from_secs(900);
/// bollard wants a limit for everything until the answer's first byte, which comes after the last of ours.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(7 * 86_400);
