//! `image` as requests.

use crate::args::Image;
use ployz_core::wire::v1::api::Request;
use ployz_core::wire::v1::image::ImagePushRequest;

/// `image`. What only looks is a request of its own, which the daemon cannot carry out by mistake.
pub(super) fn of(image: Image) -> Request {
    let Image::Push(push) = image;
    let request = ImagePushRequest { image: push.image, to: push.to.into_iter().collect() };
    if push.dry_run { Request::ImagePushPreview(request) } else { Request::ImagePush(request) }
}
