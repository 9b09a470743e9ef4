//! What is spoken before membership: join and admitted, on the two control streams, and nothing else.
//! The engine decides who is admitted; the connection ends afterwards, and the next one is between members.

use std::time::Duration;

use tokio::time::timeout;
use waypost_core::engine::effect::Reply;
use waypost_core::engine::input::Input;
use waypost_core::id::NodeId;
use waypost_proto::hop;
use waypost_proto::hop::frame::Kind;

use super::fault::Fault;
use super::frames::Frames;
use super::local::Local;

/// How long a stranger may take to show an invitation.
const JOIN: Duration = Duration::from_secs(5);
/// How long the engine may take to answer.
const ANSWER: Duration = Duration::from_secs(20);

/// The control streams: what is heard, what is said.
pub struct Controls {
    /// Opened by the other side.
    pub inward: Frames,
    /// Opened by this side.
    pub outward: Frames,
}

/// A member's side: hears a join and answers it. Gives the reason for which the connection ends.
pub async fn admit(local: &Local, peer: NodeId, controls: Controls) -> Fault {
    match try_admit(local, peer, controls).await {
        Ok(()) => Fault::Admitted,
        Err(fault) => fault,
    }
}

async fn try_admit(local: &Local, peer: NodeId, mut controls: Controls) -> Result<(), Fault> {
    let frame = timeout(JOIN, controls.inward.next()).await.map_err(|_| Fault::Stranger)??;
    let Some(Kind::Join(join)) = frame.ok_or(Fault::Closed)?.kind else { return Err(Fault::Stranger) };
    let join = Box::new(join);
    let asked = local.inputs.ask(|request| Input::JoinAsked { request, subject: peer, join });
    let reply = timeout(ANSWER, asked).await.map_err(|_| Fault::Late("the engine's answer to a join"))?;
    let admitted = match reply.map_err(|_| Fault::Stopping)? {
        Reply::Admission(Ok(chain)) => hop::Admitted { chain, refused: String::new() },
        Reply::Admission(Err(why)) => hop::Admitted { chain: Vec::new(), refused: why },
        _ => return Err(Fault::Stopping),
    };
    if admitted.refused.is_empty() {
        tracing::info!(%peer, "admitted to the network");
    } else {
        tracing::warn!(%peer, why = admitted.refused, "not admitted to the network");
    }
    controls.outward.send(Kind::Admitted(admitted)).await?;
    // The other side closes when it has read the answer.
    let _ = timeout(ANSWER, controls.inward.next()).await;
    Ok(())
}

/// A joiner's side: shows the invitation, checks what comes back, waits until the engine has it on disk.
pub async fn join(local: &Local, controls: Controls) -> Fault {
    match try_join(local, controls).await {
        Ok(()) => Fault::Admitted,
        Err(fault) => fault,
    }
}

async fn try_join(local: &Local, mut controls: Controls) -> Result<(), Fault> {
    let join = local.join.clone().ok_or(Fault::NotInvited)?;
    controls.outward.send(Kind::Join(join)).await?;
    let frame = timeout(ANSWER, controls.inward.next()).await.map_err(|_| Fault::Late("the answer to the join"))??;
    let Some(Kind::Admitted(admitted)) = frame.ok_or(Fault::Closed)?.kind else {
        return Err(Fault::Protocol("something else than the answer to the join"));
    };
    if !admitted.refused.is_empty() {
        return Err(Fault::JoinRefused(printable(&admitted.refused)));
    }
    local.admit_chain(local.id, &admitted.chain)?;
    local.inputs.push(Input::Certified { chain: admitted.chain }).await.map_err(|_| Fault::Stopping)?;
    timeout(ANSWER, local.certified()).await.map_err(|_| Fault::Late("this node's own certificate"))
}

/// A stranger's text for our log: short, and nothing that moves a cursor.
fn printable(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(200).collect()
}
