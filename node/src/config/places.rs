//! Where things are when nobody says so: the system's places for root, the XDG base directories for everybody else.

use std::path::{Path, PathBuf};

/// How to look up a variable of the environment. Handed in, so that nothing here depends on the process.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The conventional places; `None` where the environment does not say where home is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Places {
    /// The data directory.
    pub data: Option<PathBuf>,
    /// The socket.
    pub socket: Option<PathBuf>,
    /// The configuration file.
    pub config: Option<PathBuf>,
}

/// The places of this user, or those that a service manager made for this node (systemd.exec(5), `StateDirectory=`).
#[must_use]
pub fn conventional(root: bool, env: Env<'_>) -> Places {
    // A service may be given several directories, separated by colons: the first is the node's.
    let given = |name: &str| {
        let list = env(name)?;
        list.split(':').next().map(PathBuf::from).filter(|path| path.is_absolute())
    };
    let usual = of_user(root, env);
    Places {
        data: given("STATE_DIRECTORY").or(usual.data),
        socket: given("RUNTIME_DIRECTORY").map(|base| base.join("waypost.sock")).or(usual.socket),
        config: given("CONFIGURATION_DIRECTORY").map(|base| base.join("waypost.toml")).or(usual.config),
    }
}

fn of_user(root: bool, env: Env<'_>) -> Places {
    if root {
        return Places {
            data: Some("/var/lib/waypost".into()),
            socket: Some("/run/waypost/waypost.sock".into()),
            config: Some("/etc/waypost/waypost.toml".into()),
        };
    }
    // The XDG specification says to ignore relative paths.
    let absolute = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = absolute("HOME");
    let under_home = |path: &str| home.as_ref().map(|home| home.join(path));
    let data = absolute("XDG_DATA_HOME").or_else(|| under_home(".local/share")).map(|base| base.join("waypost"));
    let runtime = absolute("XDG_RUNTIME_DIR").map(|base| base.join("waypost/waypost.sock"));
    let config = absolute("XDG_CONFIG_HOME").or_else(|| under_home(".config"));
    Places {
        // Without a runtime directory the data directory is the one place that is surely this user's own.
        socket: runtime.or_else(|| data.as_deref().map(|data: &Path| data.join("waypost.sock"))),
        config: config.map(|base| base.join("waypost/waypost.toml")),
        data,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_the_systems_places() {
        let places = conventional(true, &|_| None);
        assert_eq!(places.data, Some("/var/lib/waypost".into()));
        assert_eq!(places.socket, Some("/run/waypost/waypost.sock".into()));
    }

    #[test]
    fn users_have_the_xdg_places() {
        let env = |name: &str| match name {
            "HOME" => Some("/srv/ada".to_owned()),
            "XDG_RUNTIME_DIR" => Some("/run/user/1000".to_owned()),
            "XDG_DATA_HOME" => Some("relative".to_owned()),
            _ => None,
        };
        let places = conventional(false, &env);
        assert_eq!(places.data, Some("/srv/ada/.local/share/waypost".into()));
        assert_eq!(places.socket, Some("/run/user/1000/waypost/waypost.sock".into()));
        assert_eq!(places.config, Some("/srv/ada/.config/waypost/waypost.toml".into()));
        assert_eq!(conventional(false, &|_| None), Places::default());
    }

    #[test]
    fn a_service_has_the_places_it_was_given() {
        let env = |name: &str| match name {
            "HOME" => Some("/srv/ada".to_owned()),
            "STATE_DIRECTORY" => Some("/var/lib/waypost:/var/lib/other".to_owned()),
            "RUNTIME_DIRECTORY" => Some("/run/waypost".to_owned()),
            "CONFIGURATION_DIRECTORY" => Some("/etc/waypost".to_owned()),
            _ => None,
        };
        assert_eq!(conventional(false, &env), conventional(true, &|_| None));
    }
}
