//! The longer texts of `--help` and the manual pages.

pub const ABOUT: &str = "\
A filesystem for sandboxes that sleep.

Mount a workspace: writes land on the local disk at local speed and travel to the store (an S3
bucket or a directory) in the background. Hibernate it: the rest is flushed and one snapshot is
sealed. Mount it again, on any machine: it is there at once, and data is fetched when it is first
touched. One machine writes a workspace at a time; a lease sees to that.";

pub const EXAMPLES: &str = "\
Examples:
  export DORMOUSE_STORE=file:///srv/dormouse        # or s3://bucket/prefix
  dormouse init                                     # once per store
  dormouse mount --create agent-7 /workspace        # work in /workspace
  dormouse hibernate /workspace                     # everything is in the store
  dormouse mount agent-7 /workspace                 # here or on another machine";

pub const EXAMPLES_LONG: &str = "\
Examples:
  export DORMOUSE_STORE=file:///srv/dormouse        # or s3://bucket/prefix
  dormouse init                                     # once per store
  dormouse mount --create agent-7 /workspace        # work in /workspace
  dormouse status /workspace                        # what is not in the store yet
  dormouse checkpoint /workspace                    # a restore point, while work goes on
  dormouse hibernate /workspace                     # everything is in the store
  dormouse mount agent-7 /workspace                 # here or on another machine

Settings: flags win over environment variables, those over the configuration file
(/etc/dormouse.toml), that over defaults. Credentials for S3 are never flags: they come from the
standard AWS chain (environment, profile, web identity, process, instance metadata).

Exit codes are stable and listed by `dormouse exit-codes`. Manual: `dormouse man | man -l -`.";

pub const CACHE_DIR: &str = "\
Directory for this workspace's local data: what is not in the store yet, and the cache of what is.
Default: a folder of --cache-root named after the store and the workspace.

It must be on a local disk, outside the mountpoint, and is used by one process at a time. A
directory that holds another workspace's data is refused. Deleting it after a hibernation is
safe; deleting it before loses what was not in the store.";

pub const INIT: &str = "\
Examples:
  dormouse init --store file:///srv/dormouse
  dormouse init --store s3://bucket/team-a --region eu-central-1
  dormouse init --store s3://bucket --endpoint http://127.0.0.1:9000

The bucket must exist; for file: the directory is made. The store is probed: one that ignores
conditional writes is refused (exit code 11), as two writers could not be kept apart on it.
Running it again changes nothing.";

pub const MOUNT: &str = "\
Examples:
  dormouse mount agent-7 /workspace                 # must exist in the store
  dormouse mount --create agent-7 /workspace        # for init scripts: make it if it is new
  dormouse mount --read-only agent-7 /mnt           # look, without disturbing the writer
  dormouse mount --at 3fa9c1 agent-7 /mnt           # a restore point (see `snapshots`)
  dormouse mount --steal agent-7 /workspace         # the machine that had it is dead
  dormouse mount -f agent-7 /workspace              # for supervisors; readiness by sd_notify
  mount -t dormouse agent-7 /workspace -o store=s3://bucket/prefix,cache-size=20G

The daemon hibernates on `dormouse hibernate`, on a plain `umount`, on SIGTERM and on SIGINT, and
ends with the exit code that says how that went. A second signal while it hibernates makes it
leave at once: what is not in the store stays in the cache directory, for the next mount on this
machine. After a crash, mounting again goes on with everything that was written.";

pub const HIBERNATE: &str = "\
Examples:
  dormouse hibernate /workspace
  dormouse hibernate agent-7 --timeout 2m
  dormouse hibernate --json /workspace | jq -r .snapshot

Programs that still have files open there get errors from then on. If the store does not answer
in time, the exit code is 3, the workspace stays mounted and nothing is lost: hibernate again
later. Where the daemon has died, its local data is recovered and put into the store.";

pub const CHECKPOINT: &str = "\
Examples:
  dormouse checkpoint /workspace
  dormouse checkpoint --json agent-7 | jq -r .snapshot

Writers go on meanwhile; the snapshot holds a state that existed at one instant. The daemon also
does this by itself (`mount --checkpoint-interval`).";

pub const UPGRADE: &str = "\
Examples:
  dormouse upgrade /workspace                       # by the version that is installed now
  dormouse upgrade --binary ./dormouse /workspace

The daemon finishes what it has in hand and ends; the new one takes the mount over. Open files,
working directories, mappings and locks stay; calls made meanwhile wait. If the new one does not
come up, the old one is started again and the exit code is 1. Needs a mount with a keeper (see
`mount --keeper`): not by io_uring.";

pub const UNMOUNT: &str = "\
Examples:
  dormouse unmount /workspace                 # refuses with exit code 8 while files are in use
  dormouse unmount --keep-local /workspace    # at once, without the store

The first is `umount` that waits for the hibernation and tells how it went. With --keep-local the
workspace can go on only from this machine's cache directory, until `dormouse hibernate` has put
the rest into the store.";

pub const STATUS: &str = "\
Examples:
  dormouse status
  dormouse status /workspace
  dormouse status --json /workspace | jq .unsynced.bytes
  dormouse status --metrics /workspace        # for Prometheus

Exit code 5 says that nothing is mounted there, also where a daemon died.";

pub const WORKSPACES: &str = "\
Examples:
  dormouse workspaces --store s3://bucket/prefix
  dormouse workspaces --json | jq -r '.workspaces[].name'";

pub const SNAPSHOTS: &str = "\
Examples:
  dormouse snapshots agent-7
  dormouse snapshots --json agent-7 | jq -r '.snapshots[0].id'

Any of them can be mounted with `dormouse mount --at ID`.";

pub const VERIFY: &str = "\
Examples:
  dormouse verify agent-7                     # all snapshots, every byte
  dormouse verify --quick agent-7             # metadata, and that all packs are there
  dormouse verify --sample 5 --all            # and of the file content 5 percent
  dormouse verify --snapshot latest agent-7
  dormouse verify --json --all | jq '.problems[] | {object, kind, affected}'

Works on the store alone: no mount, no daemon, no lease, and nothing is written to it; a writer is
not disturbed. Each object that is wrong is named, with what is wrong and the files that it hits,
by snapshot. Every pack is read once, however many snapshots share it.

Exit code 0: everything that was looked at is sound. 9: something is damaged or missing; the
report on standard output says what. Others: it could not be looked at to the end, such as 3 for a
store that does not answer.";

pub const COMPLETIONS: &str = "\
Examples:
  dormouse completions bash > /etc/bash_completion.d/dormouse
  dormouse completions zsh  > /usr/share/zsh/site-functions/_dormouse
  dormouse completions fish > ~/.config/fish/completions/dormouse.fish";

pub const MAN: &str = "\
Examples:
  dormouse man | man -l -
  dormouse man --out /usr/local/share/man/man1";
