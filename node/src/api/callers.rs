//! Who is calling: the user behind a connection, from the kernel and never from the caller. Looks at the uid only;
//! a pid can be reused while it is being looked up.

use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Status};

/// The user behind a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    /// Its effective uid when it connected.
    pub uid: u32,
}

/// Refuses a request of anybody but the node's own user and root, and notes the user on the others.
///
/// # Errors
/// `PERMISSION_DENIED`.
pub fn admit(mut request: Request<()>) -> Result<Request<()>, Status> {
    let credentials = request.extensions().get::<UdsConnectInfo>().and_then(|info| info.peer_cred);
    let caller = judge(credentials.map(|cred| cred.uid()), rustix::process::geteuid().as_raw())?;
    request.extensions_mut().insert(caller);
    Ok(request)
}

/// The user that [`admit`] noted.
///
/// # Errors
/// `PERMISSION_DENIED` when the request did not pass there.
pub fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request.extensions().get::<Caller>().copied().ok_or_else(unknown)
}

fn unknown() -> Status {
    Status::permission_denied("the kernel does not say which user is calling: connect over the node's unix socket")
}

fn judge(uid: Option<u32>, own: u32) -> Result<Caller, Status> {
    match uid {
        Some(uid) if uid == own || uid == 0 => Ok(Caller { uid }),
        Some(uid) => Err(Status::permission_denied(format!(
            "user {uid} may not use this node: it serves user {own} and root; run the command as one of them"
        ))),
        None => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_nodes_own_user_and_root_are_served() {
        assert_eq!(judge(Some(1000), 1000).unwrap(), Caller { uid: 1000 });
        assert_eq!(judge(Some(0), 1000).unwrap(), Caller { uid: 0 });
        for stranger in [Some(1001), None] {
            assert_eq!(judge(stranger, 1000).unwrap_err().code(), tonic::Code::PermissionDenied);
        }
    }

    #[test]
    fn a_request_without_credentials_is_refused() {
        assert_eq!(admit(Request::new(())).unwrap_err().code(), tonic::Code::PermissionDenied);
    }
}
