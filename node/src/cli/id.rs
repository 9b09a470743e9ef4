//! `id`: who this node is, from the node when it runs, else from its data directory.

use std::path::Path;

use serde::Serialize;

use super::Context;
use super::args::IdArgs;
use super::connect::connect;
use super::exit::{Exit, Failure};
use super::output::{absent, json, line};
use crate::api::wire::StatusRequest;
use crate::identity;

#[derive(Serialize)]
struct Id {
    address: String,
    #[serde(skip_serializing_if = "absent")]
    name: String,
    #[serde(skip_serializing_if = "absent")]
    network: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    listen: Option<Vec<String>>,
}

/// Prints the node's address.
///
/// # Errors
/// There is neither a node nor a key.
pub async fn id(context: &Context, args: IdArgs) -> Result<Exit, Failure> {
    let id = match args.data {
        Some(data) => stored(&data)?.ok_or_else(|| no_key(&data))?,
        None => asked_or_stored(context).await?,
    };
    if context.json {
        json(&id)?;
    } else {
        line(&id.address)?;
    }
    Ok(Exit::Done)
}

/// A socket named by the user is the node that is meant; then the data directory may be another's.
async fn asked_or_stored(context: &Context) -> Result<Id, Failure> {
    let no_node = match asked(context).await {
        Err(failure) if failure.exit == Exit::NoNode && !context.socket_named => failure,
        answer => return answer,
    };
    match &context.data {
        Some(data) => stored(data)?.ok_or(no_node),
        None => Err(no_node),
    }
}

async fn asked(context: &Context) -> Result<Id, Failure> {
    let status = connect(context).await?.status(StatusRequest {}).await?.into_inner();
    Ok(Id { address: status.address, name: status.name, network: status.network, listen: Some(status.listen) })
}

fn stored(data: &Path) -> Result<Option<Id>, Failure> {
    let Some(key) = identity::load(data)? else { return Ok(None) };
    let network = identity::network(data)?.map(|network| network.to_string()).unwrap_or_default();
    Ok(Some(Id { address: key.id().to_string(), name: String::new(), network, listen: None }))
}

fn no_key(data: &Path) -> Failure {
    let message =
        format!("{} holds no key yet: it is made by the first `waypost run` or `waypost join`", data.display());
    Failure::failed(message)
}
