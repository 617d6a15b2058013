//! The steps of a verification, in their order.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::format::{
    FORMAT_KEY, HashKeys, PACK_LEN_MAX, PACKS_PREFIX, PackKind, SnapshotName, WORKSPACES_PREFIX,
    pack_key,
};
use crate::remote::{ObjectMeta, Remote, RemoteError};
use crate::types::{PackId, WorkspaceName};
use crate::workspace::{Store, WorkspaceError};

use super::nodes::Nodes;
use super::objects::{Look, Seen};
use super::packs::Packs;
use super::paths::{Faults, Hits, Names, Places};
use super::reading::{Job, Readers, said_of_object, scratch_failed};
use super::report::{
    Affected, Problem, ProblemKind, Unreferenced, VerifiedWorkspace, VerifyCounts, VerifyReport,
    VerifyView,
};
use super::spool::Spool;
use super::walk::{Tree, Walk};
use super::{Depth, Finding, Hit, VerifyOptions, VerifyWatch};

/// Problems that are told.
const PROBLEMS_MAX: usize = 1000;

/// Objects that are none of ours that are told.
const STRANGERS_MAX: usize = 100;

/// Objects asked for at once.
const STATS_AT_ONCE: usize = 256;

/// Why there is no store to verify, where there was one: the format object is gone, and with it
/// the secret, but there are workspaces.
pub fn problem_of_format(remote: &Remote) -> Result<Option<String>, RemoteError> {
    let listed = remote.list(WORKSPACES_PREFIX)?;
    Ok((!listed.is_empty()).then(|| {
        format!(
            "{FORMAT_KEY}: it is not in the store, and there are workspaces: nothing can be \
             verified or mounted before it is put back (it never changes: any copy will do)"
        )
    }))
}

/// Verifies what the options say.
pub fn verify(
    store: &Store,
    options: &VerifyOptions,
    watch: &mut VerifyWatch<'_>,
) -> Result<VerifyReport, WorkspaceError> {
    let spool = Spool::new(&options.scratch).map_err(scratch_failed)?;
    let mut run = Run {
        remote: store.remote(),
        keys: store.keys(),
        options,
        watch,
        spool,
        packs: Packs::default(),
        nodes: Nodes::default(),
        findings: Vec::new(),
        trees: Vec::new(),
        bad_inodes: HashMap::new(),
        unreferenced: Unreferenced::default(),
        counts: VerifyCounts::default(),
        sizes: None,
    };
    let seen = run.look()?;
    run.read_trees()?;
    run.walk(&seen)?;
    run.read_data()?;
    run.suspect_format();
    run.count(&seen);
    let (problems, problems_left_out) = run.problems()?;
    let Run { unreferenced, counts, .. } = run;
    Ok(VerifyReport {
        store_id: store.id(),
        sound: problems.is_empty(),
        depth: match options.depth {
            Depth::Full => "full",
            Depth::Sample { .. } => "sample",
            Depth::Quick => "quick",
        },
        sample_seed: match options.depth {
            Depth::Sample { seed, .. } => Some(seed),
            Depth::Full | Depth::Quick => None,
        },
        workspaces: seen.iter().map(verified).collect(),
        problems,
        problems_left_out,
        unreferenced,
        counts,
    })
}

fn verified(seen: &Seen) -> VerifiedWorkspace {
    let newest = seen.snapshots.last();
    VerifiedWorkspace {
        name: seen.name.to_string(),
        snapshots: seen.snapshots.len() as u64,
        inodes: newest.map_or(0, |sealed| sealed.inodes),
        bytes: newest.map_or(0, |sealed| sealed.bytes),
    }
}

struct Run<'a, 'w> {
    remote: &'a Remote,
    keys: HashKeys,
    options: &'a VerifyOptions,
    watch: &'a mut VerifyWatch<'w>,
    spool: Spool,
    packs: Packs,
    nodes: Nodes,
    findings: Vec<Finding>,
    trees: Vec<Tree>,
    bad_inodes: HashMap<u32, Vec<u64>>,
    unreferenced: Unreferenced,
    counts: VerifyCounts,
    /// Lengths of all packs, where they were listed.
    sizes: Option<HashMap<PackId, u64>>,
}

impl Run<'_, '_> {
    fn show(&mut self, step: &'static str, done: u64, total: u64) -> Result<(), WorkspaceError> {
        show(self.watch, VerifyView { step, done, total, is_bytes: false })
    }

    /// Heads and snapshots of the workspaces that are asked for.
    fn look(&mut self) -> Result<Vec<Seen>, WorkspaceError> {
        self.show("listing", 0, 0)?;
        let mut workspaces = match &self.options.workspace {
            Some(name) => {
                let listed = self.remote.list(&format!("{WORKSPACES_PREFIX}{name}/"))?;
                let found = self.by_workspace(listed);
                if found.is_empty() {
                    return Err(WorkspaceError::NoWorkspace { name: name.clone() });
                }
                found
            }
            None => {
                let listed = self.remote.list(WORKSPACES_PREFIX)?;
                self.list_packs()?;
                self.by_workspace(listed)
            }
        };
        workspaces.retain(|_, listed| !listed.is_empty());
        let total = workspaces.values().map(|listed| listed.len() as u64).sum();
        let (mut all, mut done) = (Vec::new(), 0);
        for (name, listed) in workspaces {
            self.show("heads and snapshots", done, total)?;
            done += listed.len() as u64;
            let (packs, findings) = (&mut self.packs, &mut self.findings);
            let look = Look { remote: self.remote, packs, findings, name: &name };
            let seen = look.workspace(&listed, self.options.snapshot)?;
            self.unreferenced.snapshots.extend(seen.unreferenced.iter().cloned());
            all.push(seen);
        }
        Ok(all)
    }

    fn by_workspace(
        &mut self,
        listed: Vec<ObjectMeta>,
    ) -> BTreeMap<WorkspaceName, Vec<ObjectMeta>> {
        let mut workspaces: BTreeMap<WorkspaceName, Vec<ObjectMeta>> = BTreeMap::new();
        for object in listed {
            let rest =
                object.key.strip_prefix(WORKSPACES_PREFIX).and_then(|key| key.split_once('/'));
            let is_known = |rest: &str| {
                let snapshot = rest.strip_prefix("snapshots/");
                rest == "head" || snapshot.is_some_and(|name| name.parse::<SnapshotName>().is_ok())
            };
            match rest.map(|(name, rest)| (name.parse(), is_known(rest))) {
                Some((Ok(name), true)) => workspaces.entry(name).or_default().push(object),
                _ => self.stranger(object.key),
            }
        }
        workspaces
    }

    fn stranger(&mut self, key: String) {
        if self.unreferenced.strangers.len() < STRANGERS_MAX {
            self.unreferenced.strangers.push(key);
        }
    }

    fn list_packs(&mut self) -> Result<(), WorkspaceError> {
        let listed = self.remote.list(PACKS_PREFIX)?;
        let mut sizes = HashMap::with_capacity(listed.len());
        for ObjectMeta { key, size, .. } in listed {
            let id = key.rsplit('/').next().and_then(|last| last.parse::<PackId>().ok());
            match id.filter(|id| pack_key(id) == key) {
                Some(id) => _ = sizes.insert(id, size),
                None => self.stranger(key),
            }
        }
        self.sizes = Some(sizes);
        Ok(())
    }

    /// How long these packs are in the store. What the listing does not have is asked for: it may
    /// have been sealed since.
    fn sizes_of(&self, ids: &[PackId]) -> Vec<Result<u64, RemoteError>> {
        let listed = |id: &PackId| self.sizes.as_ref().and_then(|sizes| sizes.get(id).copied());
        let unlisted = ids.iter().filter(|id| listed(id).is_none());
        let mut asked = self.remote.stat_many(unlisted.map(pack_key).collect()).into_iter();
        let mut ask = |id| {
            let absent = || Err(RemoteError::Absent { key: pack_key(id) });
            asked.next().unwrap_or_else(absent).map(|meta| meta.size)
        };
        ids.iter().map(|id| listed(id).map_or_else(|| ask(id), Ok)).collect()
    }

    /// Finds out how long these packs are in the store, and holds it against what is listed.
    fn find(&mut self, numbers: &[u32]) -> Result<(), WorkspaceError> {
        for (at, batch) in numbers.chunks(STATS_AT_ONCE).enumerate() {
            let done = (at * STATS_AT_ONCE) as u64;
            self.show("looking for packs", done, numbers.len() as u64)?;
            let ids: Vec<PackId> = batch.iter().map(|&number| self.packs.get(number).id).collect();
            let found = self.sizes_of(&ids);
            for (&number, found) in batch.iter().zip(found) {
                let pack = self.packs.get_mut(number);
                match found {
                    Ok(size) if size > PACK_LEN_MAX => {
                        let what = format!("its {size} bytes are more than a pack may have");
                        pack.fault(ProblemKind::Size, what);
                    }
                    Ok(size) => {
                        pack.found = Some(size);
                        if let Some(listed) = pack.listed.filter(|&listed| listed != size) {
                            let what = format!("it has {size} bytes where {listed} were written");
                            pack.fault(ProblemKind::Size, what);
                        }
                    }
                    Err(error) => {
                        let (kind, what) = said_of_object(error)?;
                        pack.fault(kind, what);
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads all tree packs into the spool.
    fn read_trees(&mut self) -> Result<(), WorkspaceError> {
        let numbers = self.packs.of_kind(PackKind::Tree);
        self.find(&numbers)?;
        for &number in &numbers {
            let pack = self.packs.get_mut(number);
            let Some(size) = pack.found else { continue };
            let at = self.spool.reserve(size);
            pack.spooled = Some(at..at + size);
        }
        self.counts.tree_packs = numbers.len() as u64;
        self.read("reading metadata", &numbers)?;
        Ok(())
    }

    /// Reads these packs, and takes in how they are.
    fn read(&mut self, step: &'static str, numbers: &[u32]) -> Result<u64, WorkspaceError> {
        let job = |&number: &u32| {
            let pack = self.packs.get(number);
            Some(Job {
                number,
                id: pack.id,
                kind: pack.kind,
                size: pack.found?,
                is_whole: pack.is_whole(),
                refs: pack.refs(),
                spool_at: pack.spooled.as_ref().map(|range| range.start),
            })
        };
        let jobs: Vec<Job<'_>> = numbers.iter().filter_map(job).collect();
        let total = jobs.iter().map(|job| job.size).sum();
        let mut outcomes = Vec::new();
        let (mut sound, mut bytes) = (0, 0);
        let readers = Readers {
            remote: self.remote,
            keys: &self.keys,
            spool: &self.spool,
            jobs: self.options.jobs.max(1),
        };
        let watch = &mut *self.watch;
        let mut done = |number, outcome: super::reading::Outcome| {
            sound += outcome.sound;
            bytes += outcome.bytes;
            if !outcome.faults.is_empty() || !outcome.bad.is_empty() {
                outcomes.push((number, outcome));
            }
        };
        readers.read(&jobs, &mut done, &mut |done| {
            show(watch, VerifyView { step, done, total, is_bytes: true })
        })?;
        let read = jobs.len() as u64;
        self.counts.chunks_sound += sound;
        self.counts.bytes_read += bytes;
        for (number, outcome) in outcomes {
            let pack = self.packs.get_mut(number);
            outcome.faults.into_iter().for_each(|(kind, what)| pack.fault(kind, what));
            for (chunk, readable, why) in outcome.bad {
                pack.part_fault(ProblemKind::Damaged, || why);
                pack.mark_bad(chunk, readable);
            }
        }
        Ok(read)
    }

    /// Looks at all trees.
    fn walk(&mut self, seen: &[Seen]) -> Result<(), WorkspaceError> {
        let total = seen.iter().map(|seen| seen.snapshots.len() as u64).sum();
        let mut done = 0;
        for seen in seen {
            let (packs, findings) = (&mut self.packs, &mut self.findings);
            let mut look = Look { remote: self.remote, packs, findings, name: &seen.name };
            let inline = seen.head.as_ref().map(|head| look.inline(head, &self.keys));
            let mut walk = Walk {
                spool: &self.spool,
                keys: &self.keys,
                packs: &mut self.packs,
                nodes: &mut self.nodes,
                findings: &mut self.findings,
                trees: &mut self.trees,
                bad_inodes: &mut self.bad_inodes,
                records: &mut self.counts.records,
                paths_max: self.options.paths_max,
            };
            let watch = &mut *self.watch;
            walk.workspace(seen, &inline.unwrap_or_default(), &mut || {
                done += 1;
                show(watch, VerifyView { step: "checking trees", done, total, is_bytes: false })
            })?;
        }
        Ok(())
    }

    /// Looks at the packs of file content, as deep as is asked for.
    fn read_data(&mut self) -> Result<(), WorkspaceError> {
        let numbers = self.packs.of_kind(PackKind::Data);
        self.find(&numbers)?;
        for &number in &numbers {
            let pack = self.packs.get_mut(number);
            pack.sort_refs();
            pack.check_places();
            self.counts.chunks += pack.refs().len() as u64;
        }
        self.counts.data_packs = numbers.len() as u64;
        let chosen: Vec<u32> = match self.options.depth {
            Depth::Full => numbers,
            Depth::Quick => Vec::new(),
            Depth::Sample { percent, seed } => {
                let is_chosen = |number: &u32| {
                    let mut hasher = blake3::Hasher::new();
                    hasher.update(&seed.to_le_bytes()).update(&self.packs.get(*number).id.0);
                    u16::from(hasher.finalize().as_bytes()[0]) * 100 < u16::from(percent) * 256
                };
                numbers.into_iter().filter(is_chosen).collect()
            }
        };
        self.counts.data_packs_read = self.read("reading file content", &chosen)?;
        Ok(())
    }

    fn suspect_format(&mut self) {
        if self.nodes.no_hash_fits() {
            let what = "its secret fits nothing in the store: it may be another store's".to_owned();
            let (object, kind) = (FORMAT_KEY.to_owned(), ProblemKind::Damaged);
            self.findings.insert(0, Finding { object, kind, what, hit: Hit::Nothing });
        }
    }

    fn count(&mut self, seen: &[Seen]) {
        self.counts.nodes = self.nodes.len() as u64;
        let Some(sizes) = &self.sizes else { return };
        let named: HashSet<PackId> = self.packs.iter().map(|(_, pack)| pack.id).collect();
        let unnamed = sizes.iter().filter(|(id, _)| !named.contains(*id));
        // With a snapshot that can't be read, nobody knows what it named.
        if seen.iter().all(|seen| seen.head.is_some()) {
            for (_, size) in unnamed {
                self.unreferenced.packs += 1;
                self.unreferenced.pack_bytes += size;
            }
        }
    }

    /// Everything that is wrong, and whom it hits.
    fn problems(&mut self) -> Result<(Vec<Problem>, u64), WorkspaceError> {
        let is_bad = self.packs.iter().any(|(_, pack)| pack.is_bad());
        if !is_bad && self.findings.is_empty() {
            return Ok((Vec::new(), 0));
        }
        self.show("looking for the files that are hit", 0, 0)?;
        let places = Places {
            nodes: &self.nodes,
            packs: &self.packs,
            spool: &self.spool,
            keys: &self.keys,
            bad_inodes: &self.bad_inodes,
            paths_max: self.options.paths_max,
        };
        let faults = Faults::find(places)?;
        let by_tree: Vec<BTreeMap<u32, Hits>> =
            self.trees.iter().map(|tree| faults.of(tree.root)).collect();
        let mut wanted = HashSet::new();
        let mut lost = Vec::new();
        for hits in by_tree.iter().flat_map(|hits| hits.values()) {
            wanted.extend(hits.inos.iter().copied());
            lost.extend(hits.lost.iter().cloned());
        }
        for finding in &self.findings {
            if let Hit::Inodes(list) = &finding.hit {
                wanted.extend(list.iter().flat_map(|(_, _, inos)| inos.iter().copied()));
            }
        }
        let names = Names::find(places, &wanted, &lost)?;
        let teller = Teller { trees: &self.trees, by_tree: &by_tree, names: &names };
        Ok(teller.problems(&self.findings, &self.packs))
    }
}

fn show(watch: &mut VerifyWatch<'_>, view: VerifyView) -> Result<(), WorkspaceError> {
    if watch(&view).is_break() { Err(WorkspaceError::Stopped) } else { Ok(()) }
}

/// Makes problems of findings.
struct Teller<'a> {
    trees: &'a [Tree],
    by_tree: &'a [BTreeMap<u32, Hits>],
    names: &'a Names<'a>,
}

impl Teller<'_> {
    fn problems(&self, findings: &[Finding], packs: &Packs) -> (Vec<Problem>, u64) {
        let bad: Vec<_> = packs
            .iter()
            .filter_map(|(number, pack)| Some((number, pack.key(), pack.verdict()?)))
            .collect();
        let left_out = (findings.len() + bad.len()).saturating_sub(PROBLEMS_MAX);
        let mut problems: Vec<Problem> = findings
            .iter()
            .take(PROBLEMS_MAX)
            .map(|Finding { object, kind, what, hit }| Problem {
                object: object.clone(),
                kind: *kind,
                what: what.clone(),
                affected: self.of_hit(hit),
            })
            .collect();
        // Names of one tree at a time: they may be many.
        let first = problems.len();
        let bad = &bad[..bad.len().min(PROBLEMS_MAX - first)];
        problems.extend(bad.iter().map(|(_, object, (kind, what))| Problem {
            object: object.clone(),
            kind: *kind,
            what: what.clone(),
            affected: Vec::new(),
        }));
        for (tree, hits) in self.trees.iter().zip(self.by_tree) {
            if hits.is_empty() {
                continue;
            }
            let paths = self.names.of(tree.root);
            for ((number, ..), problem) in bad.iter().zip(&mut problems[first..]) {
                let Some(hits) = hits.get(number) else { continue };
                let (files, paths) = match hits.everything {
                    true => (tree.inodes, Vec::new()),
                    false => paths.tell(hits),
                };
                let everything = hits.everything;
                let (workspace, snapshot) = (&tree.workspace, Some(tree.snapshot));
                problem.affected.push(Affected {
                    everything,
                    files,
                    paths,
                    ..affected(workspace, snapshot)
                });
            }
        }
        (problems, left_out as u64)
    }

    fn of_hit(&self, hit: &Hit) -> Vec<Affected> {
        match hit {
            Hit::Nothing => Vec::new(),
            Hit::Workspace(name) => vec![Affected { everything: true, ..affected(name, None) }],
            Hit::Snapshot(name, id) => vec![affected(name, Some(*id))],
            Hit::WholeSnapshot(name, id) => {
                vec![Affected { everything: true, ..affected(name, Some(*id)) }]
            }
            Hit::Inodes(list) => list
                .iter()
                .map(|(tree, files, inos)| {
                    let tree = &self.trees[*tree];
                    let hits = Hits { files: *files, inos: inos.clone(), ..Hits::default() };
                    let (files, paths) = self.names.of(tree.root).tell(&hits);
                    Affected { files, paths, ..affected(&tree.workspace, Some(tree.snapshot)) }
                })
                .collect(),
        }
    }
}

fn affected(workspace: &WorkspaceName, snapshot: Option<crate::types::SnapshotId>) -> Affected {
    Affected {
        workspace: workspace.to_string(),
        snapshot: snapshot.map(|id| id.to_string()),
        everything: false,
        files: 0,
        paths: Vec::new(),
    }
}
