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

/// Who may call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admits {
    /// The node's own user, and root.
    Own,
    /// Everybody whom the socket's group and mode let in: the kernel has looked at them when the connection was made.
    WhoCouldConnect,
}

impl Admits {
    /// Refuses a request of whom it does not admit, and notes the user on the others.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`.
    pub fn admit(self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let credentials = request.extensions().get::<UdsConnectInfo>().and_then(|info| info.peer_cred);
        let own = rustix::process::geteuid().as_raw();
        let caller = self.judge(credentials.map(|cred| cred.uid()), own)?;
        request.extensions_mut().insert(caller);
        Ok(request)
    }

    fn judge(self, uid: Option<u32>, own: u32) -> Result<Caller, Status> {
        match uid {
            Some(uid) if uid == own || uid == 0 || self == Self::WhoCouldConnect => Ok(Caller { uid }),
            Some(uid) => Err(Status::permission_denied(format!(
                "user {uid} may not use this node: it serves user {own} and root; run the command as one of them"
            ))),
            None => Err(unknown()),
        }
    }
}

/// The user that [`Admits::admit`] noted.
///
/// # Errors
/// `PERMISSION_DENIED` when the request did not pass there.
pub fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request.extensions().get::<Caller>().copied().ok_or_else(unknown)
}

fn unknown() -> Status {
    Status::permission_denied("the kernel does not say which user is calling: connect over the node's unix socket")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_nodes_own_user_and_root_are_served() {
        assert_eq!(Admits::Own.judge(Some(1000), 1000).unwrap(), Caller { uid: 1000 });
        assert_eq!(Admits::Own.judge(Some(0), 1000).unwrap(), Caller { uid: 0 });
        for stranger in [Some(1001), None] {
            assert_eq!(Admits::Own.judge(stranger, 1000).unwrap_err().code(), tonic::Code::PermissionDenied);
        }
    }

    #[test]
    fn a_shared_socket_serves_whom_the_kernel_let_in_and_still_knows_them() {
        assert_eq!(Admits::WhoCouldConnect.judge(Some(1001), 1000).unwrap(), Caller { uid: 1001 });
        assert!(Admits::WhoCouldConnect.judge(None, 1000).is_err());
    }

    #[test]
    fn a_request_without_credentials_is_refused() {
        assert_eq!(Admits::WhoCouldConnect.admit(Request::new(())).unwrap_err().code(), tonic::Code::PermissionDenied);
    }
}
