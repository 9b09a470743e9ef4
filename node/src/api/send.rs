//! Send and SendStream: from an application's bytes to one answer. Nothing is answered OK before the engine says so.

use bytes::Bytes;
use tonic::{Status, Streaming};
use waypost_core::engine::effect::Reply;
use waypost_core::engine::input::Input;
use waypost_core::limits::{BATCH_MESSAGES, FRAGMENT};
use waypost_core::message::{Invalid, Submission};

use super::callers::Caller;
use super::convert::{accepted, submission};
use super::refuse::{invalid, refused, stopping, unexpected};
use super::registry::Registry;
use super::upload::Upload;
use super::wire::send_stream_request::Part;
use super::wire::{SendRequest, SendResponse, SendStreamRequest};
use crate::inputs::Inputs;

/// Bytes of bodies and headers in one batch at most.
const BATCH_BYTES: usize = 4 << 20;

/// Has a batch accepted, all of it or none.
///
/// # Errors
/// The first limit that is broken, the engine's refusal, or that the node is stopping.
pub async fn batch(
    inputs: &Inputs,
    registry: &Registry,
    caller: Caller,
    request: SendRequest,
) -> Result<SendResponse, Status> {
    if request.messages.len() > BATCH_MESSAGES {
        return Err(invalid(&Invalid::Batch(request.messages.len())));
    }
    let mut messages = request.messages.into_iter().map(submission).collect::<Result<Vec<_>, _>>()?;
    let reply = match messages.as_mut_slice() {
        [] => return Err(Status::invalid_argument("the request holds no message: put at least one into it")),
        [large] if large.body.len() > FRAGMENT => {
            let body = std::mem::take(&mut large.body);
            whole(inputs, registry, caller, large.clone(), body).await?
        }
        several => {
            check_batch(several)?;
            let submit = |request| Input::Submitted { request, uid: caller.uid, messages };
            inputs.ask(submit).await.map_err(stopping)?
        }
    };
    answer(reply)
}

fn check_batch(messages: &[Submission]) -> Result<(), Status> {
    if let Some(large) = messages.iter().find(|message| message.body.len() > FRAGMENT) {
        return Err(Status::invalid_argument(format!(
            "a body of {} bytes in a batch; at most {FRAGMENT} are allowed there: send it alone, or with SendStream",
            large.body.len()
        )));
    }
    let bytes: usize = messages.iter().map(bytes_of).sum();
    if bytes > BATCH_BYTES {
        return Err(Status::invalid_argument(format!(
            "a batch of {bytes} bytes; at most {BATCH_BYTES} are allowed: send several smaller ones"
        )));
    }
    Ok(())
}

fn bytes_of(message: &Submission) -> usize {
    message.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() + message.body.len()
}

/// A body that is here already but larger than a fragment goes the way of streamed ones.
async fn whole(
    inputs: &Inputs,
    registry: &Registry,
    caller: Caller,
    message: Submission,
    body: Bytes,
) -> Result<Reply, Status> {
    let mut upload = Upload::new(inputs, registry, caller, message);
    for part in body.chunks(FRAGMENT) {
        upload.write(part).await?;
    }
    upload.finish().await
}

/// Has one message of any size accepted once its stream is closed. A stream that breaks off is abandoned.
///
/// # Errors
/// As [`batch`], and what is wrong with the order of the parts.
pub async fn stream(
    inputs: &Inputs,
    registry: &Registry,
    caller: Caller,
    mut parts: Streaming<SendStreamRequest>,
) -> Result<SendResponse, Status> {
    let Some(Part::Open(open)) = parts.message().await?.and_then(|first| first.part) else {
        return Err(Status::invalid_argument("the first part must be `open`: it says for whom the message is"));
    };
    if !open.body.is_empty() {
        return Err(Status::invalid_argument("`open` comes without a body: send the body as `data`"));
    }
    let mut upload = Upload::new(inputs, registry, caller, submission(open)?);
    while let Some(data) = next_data(&mut upload, &mut parts).await? {
        upload.write(&data).await?;
    }
    answer(upload.finish().await?)
}

async fn next_data(upload: &mut Upload<'_>, parts: &mut Streaming<SendStreamRequest>) -> Result<Option<Bytes>, Status> {
    let next = tokio::select! {
        refusal = upload.refusal() => return Err(refusal),
        next = parts.message() => next?,
    };
    match next.map(|next| next.part) {
        None => Ok(None),
        Some(Some(Part::Data(data))) => Ok(Some(data)),
        Some(_) => {
            Err(Status::invalid_argument("only `data` may follow `open`: send another message in its own stream"))
        }
    }
}

fn answer(reply: Reply) -> Result<SendResponse, Status> {
    match reply {
        Reply::Accepted(list) => Ok(accepted(list)),
        Reply::Refused(refusal) => Err(refused(&refusal)),
        _ => Err(unexpected()),
    }
}
