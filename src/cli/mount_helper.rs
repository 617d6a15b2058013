//! `mount -t dormouse NAME DIR -o OPTIONS`: mount(8) and fstab run this program as
//! `mount.dormouse` or `mount.fuse.dormouse`, with arguments of its own making. They are
//! rewritten here into those of `dormouse mount`, the only place that knows what they mean.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use super::exit::{Failure, Outcome};

/// Names under which the program is a mount helper.
const NAMES: [&str; 4] =
    ["mount.dormouse", "mount.fuse.dormouse", "mount.fuse3.dormouse", "mount.fuse.dormouse3"];

/// Options that are `dormouse mount`'s flags of the same name with a value.
const WITH_VALUE: [&str; 28] = [
    "store",
    "endpoint",
    "region",
    "profile",
    "store-timeout",
    "config",
    "cache-dir",
    "cache-root",
    "cache-size",
    "lease-ttl",
    "checkpoint-interval",
    "max-unsynced-age",
    "max-unsynced-bytes",
    "upload-limit",
    "settle-cpu",
    "transport",
    "keeper",
    "hot-set-size",
    "threads",
    "scheduling",
    "write-cache",
    "at",
    "log-level",
    "log-format",
    "path-style",
    "create",
    "allow-other",
    "no-xattr",
];

/// Options that are flags without a value.
const SWITCHES: [&str; 8] = [
    "path-style",
    "create",
    "allow-other",
    "no-xattr",
    "read-only",
    "steal",
    "discard-local",
    "foreground",
];

/// What mount(8) and systemd mean for themselves, or what is so here anyway.
const NOTHING_TO_DO: [&str; 23] = [
    "rw",
    "exec",
    "async",
    "auto",
    "noauto",
    "nouser",
    "user",
    "users",
    "owner",
    "group",
    "defaults",
    "nofail",
    "_netdev",
    "nosuid",
    "nodev",
    "noatime",
    "nodiratime",
    "norelatime",
    "nostrictatime",
    "default_permissions",
    "noiversion",
    "silent",
    "loud",
];

/// Whether the program was run under a helper's name.
#[must_use]
pub fn is_helper(program: &OsStr) -> bool {
    let name = Path::new(program).file_name().and_then(OsStr::to_str);
    name.is_some_and(|name| NAMES.contains(&name))
}

/// The command line of `dormouse mount` that a helper's command line means; `None` where only
/// checking was asked for (`-f`).
pub fn translate(arguments: Vec<OsString>) -> Outcome<Option<Vec<OsString>>> {
    let mut out: Vec<OsString> = vec!["dormouse".into(), "mount".into()];
    let mut operands = Vec::new();
    let (mut sloppy, mut fake) = (false, false);
    let mut options = Vec::new();
    let mut rest = arguments.into_iter().skip(1);
    while let Some(argument) = rest.next() {
        let mut value = || {
            rest.next().ok_or_else(|| usage(format_args!("{} needs a value", argument.display())))
        };
        match argument.as_bytes() {
            b"-o" => options.push(value()?),
            b"-t" | b"-N" => drop(value()?),
            flags if flags.starts_with(b"-o") => {
                options.push(OsString::from_vec(flags[2..].to_vec()));
            }
            [b'-', flags @ ..] if !flags.is_empty() => {
                for flag in flags {
                    match flag {
                        b's' => sloppy = true,
                        b'f' => fake = true,
                        b'n' | b'v' | b'w' => {}
                        b'r' => out.push("--read-only".into()),
                        other => {
                            return Err(usage(format_args!("unknown flag -{}", *other as char)));
                        }
                    }
                }
            }
            _ => operands.push(argument),
        }
    }
    for list in options {
        for option in split_options(&list) {
            out.extend(translate_option(&option, sloppy)?);
        }
    }
    let [name, mountpoint] = <[OsString; 2]>::try_from(operands)
        .map_err(|_| usage(format_args!("two operands are needed: NAME and DIRECTORY")))?;
    out.extend(["--".into(), name, mountpoint]);
    Ok((!fake).then_some(out))
}

fn usage(what: std::fmt::Arguments<'_>) -> Failure {
    Failure::usage(what).hint("usage: mount -t dormouse NAME DIRECTORY [-o OPTION,...]")
}

/// Splits at commas; a comma inside a value is written `\,` or the value in double quotes.
fn split_options(list: &OsStr) -> Vec<Vec<u8>> {
    let (mut all, mut one, mut quoted) = (Vec::new(), Vec::new(), false);
    let mut bytes = list.as_bytes().iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' if bytes.peek() == Some(&b',') => one.extend(bytes.next()),
            b'"' => quoted = !quoted,
            b',' if !quoted => all.push(std::mem::take(&mut one)),
            byte => one.push(byte),
        }
    }
    all.push(one);
    all.retain(|option| !option.is_empty());
    all
}

fn translate_option(option: &[u8], sloppy: bool) -> Outcome<Option<OsString>> {
    let text = String::from_utf8_lossy(option);
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (text.as_ref(), None),
    };
    // fstab is often written with underscores.
    let flag = name.replace('_', "-");
    let outside = name.starts_with("x-") || name.starts_with("X-") || name == "comment";
    let flagged = |flag: &str| OsString::from(format!("--{flag}"));
    Ok(match (name, value) {
        _ if outside => None,
        ("user" | "group", Some(_)) => None,
        (name, None) if NOTHING_TO_DO.contains(&name) => None,
        ("ro", None) => Some(flagged("read-only")),
        ("suid", None) => Some(flagged("allow-suid")),
        ("dev", None) => Some(flagged("allow-dev")),
        ("noxattr", None) => Some(flagged("no-xattr")),
        (_, Some(_)) if WITH_VALUE.contains(&flag.as_str()) => {
            // The value as bytes: a path need not be UTF-8.
            let mut argument = format!("--{flag}").into_bytes();
            argument.extend_from_slice(&option[name.len()..]);
            Some(OsString::from_vec(argument))
        }
        (_, None) if SWITCHES.contains(&flag.as_str()) => Some(flagged(&flag)),
        (_, None) if WITH_VALUE.contains(&flag.as_str()) => {
            return Err(Failure::usage(format!("mount option {name} needs a value: {name}=...")));
        }
        _ if sloppy => None,
        _ => {
            let known = [WITH_VALUE.as_slice(), &["ro", "suid", "dev", "steal"]].concat();
            return Err(Failure::usage(format!("unknown mount option {name:?}"))
                .hint(format!("known: {}", known.join(", "))));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, CommandArgs, MountArgs};
    use clap::Parser as _;

    fn translated(words: &[&str]) -> Outcome<Option<Vec<OsString>>> {
        translate(words.iter().map(OsString::from).collect())
    }

    fn parsed(words: &[&str]) -> MountArgs {
        let line = translated(words).unwrap().unwrap();
        match Cli::try_parse_from(line).unwrap().command {
            CommandArgs::Mount(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_helper_names_are_helpers() {
        assert!(is_helper(OsStr::new("/sbin/mount.dormouse")));
        assert!(is_helper(OsStr::new("mount.fuse.dormouse")));
        assert!(!is_helper(OsStr::new("/usr/bin/dormouse")));
    }

    #[test]
    fn what_mount_8_passes_becomes_a_mount_command() {
        let args = parsed(&[
            "/sbin/mount.dormouse",
            "agent-7",
            "/workspace",
            "-o",
            "rw,nosuid,_netdev,x-systemd.automount,store=s3://b/p,cache_size=20G,create,suid",
        ]);
        assert_eq!(args.name, "agent-7");
        assert_eq!(args.mountpoint, Path::new("/workspace"));
        assert_eq!(args.store.url.as_deref(), Some("s3://b/p"));
        assert_eq!(args.tuning.cache_size.map(|size| size.0), Some(20 << 30));
        assert_eq!((args.tuning.create, args.tuning.allow_suid), (Some(true), Some(true)));
        assert!(!args.read_only);
        let args = parsed(&["mount.fuse.dormouse", "w", "/m", "-o", "ro", "-t", "fuse.dormouse"]);
        assert!(args.read_only);
    }

    #[test]
    fn values_may_hold_commas_when_quoted_or_escaped() {
        let args =
            parsed(&["mount.dormouse", "w", "/m", "-o", "cache-dir=\"/a,b\",store=file:///x\\,y"]);
        assert_eq!(args.tuning.cache_dir.as_deref(), Some(Path::new("/a,b")));
        assert_eq!(args.store.url.as_deref(), Some("file:///x,y"));
    }

    #[test]
    fn an_unknown_option_is_named_unless_mount_is_told_to_be_sloppy() {
        let failure = translated(&["mount.dormouse", "w", "/m", "-o", "cachesize=1"]).unwrap_err();
        assert!(failure.message.contains("\"cachesize\""), "{}", failure.message);
        assert!(translated(&["mount.dormouse", "w", "/m", "-s", "-o", "cachesize=1"]).is_ok());
        assert!(translated(&["mount.dormouse", "w", "/m", "-o", "store"]).is_err());
        assert!(translated(&["mount.dormouse", "w"]).is_err());
    }

    #[test]
    fn a_fake_mount_is_only_checked() {
        assert_eq!(translated(&["mount.dormouse", "w", "/m", "-fnv"]).unwrap(), None);
    }

    #[test]
    fn every_option_is_a_flag_of_mount() {
        use clap::CommandFactory as _;
        let mut command = Cli::command();
        command.build();
        let mount = command.find_subcommand("mount").unwrap();
        let flags: Vec<_> = mount.get_arguments().filter_map(|it| it.get_long()).collect();
        for option in WITH_VALUE.iter().chain(&SWITCHES) {
            assert!(flags.contains(option), "{option}");
        }
    }
}
