//! stub
use crate::id::NodeId;
use waypost_proto::hop::Signed;
/// k
pub struct NodeKey;
/// v
#[derive(Clone, Debug)]
pub struct Verified<T> {
    content: T,
    signer: NodeId,
    signed: Signed,
}
/// e
#[derive(Clone, Debug)]
pub struct OpenError;
