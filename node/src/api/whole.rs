//! Request bodies that broke off are errors, not ends. hyper and tonic both show a stream that the client cancelled as
//! one that it closed; half a file would be accepted as a message. Only a stream that was closed is whole.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

/// Makes a request's body tell its end from its breaking off.
#[must_use]
pub fn whole(request: http::Request<Body>) -> http::Request<Body> {
    request.map(|body| Body::new(Whole { body, broken: false }))
}

struct Whole {
    body: Body,
    broken: bool,
}

impl http_body::Body for Whole {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.broken {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let broken = match &frame {
            // At the end of the frames the stream is closed, or it was reset.
            None => !self.body.is_end_stream(),
            // tonic would take it for an end.
            Some(Err(status)) => status.code() == tonic::Code::Cancelled,
            Some(Ok(_)) => false,
        };
        if !broken {
            return Poll::Ready(frame);
        }
        self.broken = true;
        Poll::Ready(Some(Err(Status::aborted("the stream broke off before it was closed: nothing of it was accepted"))))
    }

    fn is_end_stream(&self) -> bool {
        self.broken || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
