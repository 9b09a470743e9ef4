//! stub
/// n
#[derive(Clone, Debug)]
pub struct Name;
/// e
#[derive(Clone, Debug)]
pub struct SealedEnvelope;
