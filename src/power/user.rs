//! Another user, without the capabilities of the first.

use std::fs;
use std::io;

use nix::unistd::{Gid, Uid, getegid, geteuid, setgid, setgroups, setuid};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_keep_capabilities};

use crate::config::User;

/// What a user is to the kernel.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Account {
    user: Uid,
    group: Gid,
    /// Other groups that it is a member of: one of them may be what lets it read a key.
    more: Vec<Gid>,
}

/// Looks a user up. Not by the C library, which may load others for it and then starts helpers and asks servers.
pub(super) fn find(user: &User) -> Option<Account> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    match user {
        User::Numbers(user, group) => {
            Some(Account { user: Uid::from_raw(*user), group: Gid::from_raw(*group), more: Vec::new() })
        }
        User::Name(name) => account(name, &read("/etc/passwd"), &read("/etc/group")),
    }
}

/// passwd(5) and group(5): fields between colons, members between commas.
fn account(name: &str, passwd: &str, groups: &str) -> Option<Account> {
    let fields = |line| str::split(line, ':').collect::<Vec<_>>();
    let mut users = passwd.lines().map(fields).filter(|fields| fields[0] == name);
    let (user, group) = users.find_map(|fields| Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?)))?;
    let is_member =
        |fields: &&Vec<&str>| fields.get(3).is_some_and(|members| members.split(',').any(|one| one == name));
    let groups: Vec<_> = groups.lines().map(fields).collect();
    let more = groups.iter().filter(is_member).filter_map(|fields| fields[2].parse().ok().map(Gid::from_raw)).collect();
    Some(Account { user: Uid::from_raw(user), group: Gid::from_raw(group), more })
}

/// Becomes another user for good, and keeps the power to bind low ports, if it was there.
pub(super) fn take(account: &Account) -> io::Result<()> {
    if (geteuid(), getegid()) == (account.user, account.group) {
        return Ok(());
    }
    // Without it the kernel drops all capabilities with the last user number that is root's.
    set_keep_capabilities(true)?;
    setgroups(&account.more)?;
    setgid(account.group)?;
    setuid(account.user)?;
    keep_only_binding()?;
    Ok(set_keep_capabilities(false)?)
}

/// Drops every capability but that to bind ports below 1024, which a listener may need at any time.
pub(super) fn keep_only_binding() -> io::Result<()> {
    let kept = capabilities(None)?.permitted & CapabilitySet::NET_BIND_SERVICE;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    Ok(set_capabilities(None, sets)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_with_their_groups() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken:x\ngate:x:998:997::/:/usr/sbin/nologin\ngate:x:1:1::/:/\n";
        let groups = "root:x:0:\nssl-cert:x:110:gates,gate\nadm:x:4:gate\nodd:x:nine:gate\ngate:x:997:\nshort:x\n";
        let numbers = |user, group, more: &[u32]| {
            let more = more.iter().copied().map(Gid::from_raw).collect();
            Some(Account { user: Uid::from_raw(user), group: Gid::from_raw(group), more })
        };
        assert_eq!(account("gate", passwd, groups), numbers(998, 997, &[110, 4]));
        assert_eq!(account("root", passwd, groups), numbers(0, 0, &[]));
        for absent in ["broken", "gates", "x", "998"] {
            assert_eq!(account(absent, passwd, groups), None, "{absent}");
        }
        assert_eq!(find(&User::Numbers(7, 8)), numbers(7, 8, &[]));
    }
}
