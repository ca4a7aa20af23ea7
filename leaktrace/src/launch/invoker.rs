//! The user who called sudo, whom a command is started as.

use std::ffi::{CString, OsString};
use std::io;

use nix::unistd::{Gid, Uid, User, getgrouplist, setgid, setgroups, setuid};

/// Why it cannot be told whom to start a command as.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "cannot tell who called sudo: `{variable}` is `{value}`, which is no number of a user or group; unset it to stay root"
)]
pub struct InvokerError {
    variable: &'static str,
    value: String,
}

/// Who called sudo.
#[derive(Clone, Debug)]
pub(super) struct Invoker {
    uid: Uid,
    gid: Gid,
    /// What the host knows of the user; there may be none.
    user: Option<User>,
}

/// Who called sudo; `None` where nobody but root did.
///
/// # Errors
/// sudo's variables hold no numbers.
pub(super) fn invoker() -> Result<Option<Invoker>, InvokerError> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    let Some(uid) = number("SUDO_UID")?.filter(|&uid| uid != 0) else { return Ok(None) };
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    let gid = number("SUDO_GID")?.map(Gid::from_raw).or(user.as_ref().map(|user| user.gid));
    let gid = gid.unwrap_or(Gid::from_raw(uid));
    Ok(Some(Invoker { uid: Uid::from_raw(uid), gid, user }))
}

fn number(variable: &'static str) -> Result<Option<u32>, InvokerError> {
    let Some(value) = std::env::var_os(variable) else { return Ok(None) };
    let value = value.to_string_lossy().into_owned();
    // The largest number stands for no user at all.
    match value.parse() {
        Ok(number) if number != u32::MAX => Ok(Some(number)),
        _ => Err(InvokerError { variable, value: value.escape_debug().to_string() }),
    }
}

impl Invoker {
    /// Variables that are evidently root's: sudo sets them so where it is not told to keep the user's.
    pub(super) fn environment(&self) -> Vec<(&'static str, OsString)> {
        let (Some(user), Ok(Some(root))) = (&self.user, User::from_uid(Uid::from_raw(0))) else {
            return Vec::new();
        };
        let of_user = [
            ("HOME", root.dir.into_os_string(), user.dir.clone().into_os_string()),
            ("USER", root.name.clone().into(), user.name.clone().into()),
            ("LOGNAME", root.name.into(), user.name.clone().into()),
        ];
        of_user
            .into_iter()
            .filter(|(name, of_root, _)| std::env::var_os(name).as_ref() == Some(of_root))
            .map(|(name, _, value)| (name, value))
            .collect()
    }

    /// Gives this process the user's rights, for good.
    pub(super) fn become_it(&self) -> io::Result<()> {
        let name = self.user.as_ref().and_then(|user| CString::new(user.name.as_str()).ok());
        let groups = match name {
            Some(name) => getgrouplist(&name, self.gid)?,
            None => vec![self.gid],
        };
        setgroups(&groups)?;
        setgid(self.gid)?;
        setuid(self.uid)?;
        Ok(())
    }
}
