//! One way to serve every request: try with what is on this machine; hand over what must wait.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fuser::Errno;

use super::answer::Answer;
use super::convert::errno;
use super::count::Opcode;
use super::flight::{Request as InFlightRequest, Ticket, WaitsFor};
use super::kept;
use super::killed::{Callers, Held};
use super::mount::Parts;
use super::options::MountOptions;
use super::pace::Pace;
use super::pool::{Job, Pool};
use crate::chunks::Fetch;
use crate::fs::{Caller, Filesystem, FsError, Missing};
use crate::types::{Ino, RequestId};

/// Threads that wait for the local disk: as many callers as may share one sync.
const DISK_THREADS_MAX: usize = 32;

/// Tries of a waiting operation whose content was evicted again between fetch and use.
const WAITING_TRIES_MAX: u32 = 16;

/// How often a change or a listing starts again with what was brought for it. It seldom lacks more
/// than some records, but room can go to others each time that it is made.
const STEPS_MAX: u32 = 64;

/// Where a request comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin {
    /// The request's number.
    pub(super) unique: u64,
    /// The caller's user.
    pub(super) uid: u32,
    /// The caller's group.
    pub(super) gid: u32,
    /// The caller's thread; 0 if it can't be seen from here.
    pub(super) pid: u32,
}

/// Who asks for what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) opcode: Opcode,
    pub(super) ino: Ino,
    origin: Origin,
    umask: u32,
}

impl Call {
    pub(super) fn new(origin: Origin, opcode: Opcode, ino: Ino) -> Call {
        Call { opcode, ino, origin, umask: 0 }
    }

    /// With the permission bits that a new file does not get.
    pub(super) fn umask(self, umask: u32) -> Call {
        Call { umask, ..self }
    }

    /// Whether only the operation itself can wait for this: in the middle of a read, for its turn,
    /// or between two commits of a file that is cleared in slices.
    fn waits_by_itself(&self, missing: &Missing) -> bool {
        match missing {
            Missing::Content | Missing::Turn => true,
            Missing::Room(_) => matches!(self.opcode, Opcode::SetAttr | Opcode::FAllocate),
            Missing::Record(_) | Missing::Records(..) | Missing::Thaw => false,
        }
    }
}

/// Serves operations of one mount; shared by its threads.
#[derive(Debug, Clone)]
pub(super) struct Server {
    fs: Arc<Filesystem>,
    parts: Parts,
    pools: Arc<Pools>,
    pace: Arc<Pace>,
    callers: Arc<Callers>,
    deadline: Duration,
}

/// Those that wait for the disk do not wait behind those that wait for the store, nor do those
/// behind writers that wait for room or for the end of a freeze.
#[derive(Debug)]
struct Pools {
    disk: Pool,
    store: Pool,
    turn: Pool,
}

/// An operation that must wait, and what for.
#[derive(Debug)]
pub(super) struct Waiting {
    ticket: Begun,
    missing: Missing,
}

/// A request under way. Dropped when it is answered.
#[derive(Debug)]
struct Begun {
    ticket: Ticket,
    _answered: Option<Answered>,
}

/// Notes that a request was answered, when it is dropped.
#[derive(Debug)]
struct Answered {
    fs: Arc<Filesystem>,
    request: RequestId,
    is_held: Arc<AtomicBool>,
}

impl Drop for Answered {
    fn drop(&mut self) {
        // Held back before this, an answer may not have been given.
        if !self.is_held.load(Ordering::SeqCst) {
            self.fs.answered(&self.request);
        }
    }
}

impl Pools {
    fn waiting_for(&self, missing: &Missing) -> &Pool {
        match missing {
            Missing::Room(_) | Missing::Turn | Missing::Thaw => &self.turn,
            Missing::Record(_) | Missing::Records(..) | Missing::Content => &self.store,
        }
    }
}

impl Server {
    pub(super) fn new(fs: Arc<Filesystem>, options: &MountOptions, parts: Parts) -> Server {
        let queue_max = options.waiting_requests_max;
        let pools = Pools {
            disk: Pool::new("dormouse-disk", DISK_THREADS_MAX, queue_max),
            store: Pool::new("dormouse-store", options.waiting_threads_max, queue_max),
            turn: Pool::new("dormouse-turn", options.waiting_threads_max, queue_max),
        };
        Server {
            fs,
            parts,
            pools: Arc::new(pools),
            pace: Arc::default(),
            callers: Arc::default(),
            deadline: options.deadline,
        }
    }

    /// Waits for the operations that wait, and answers those that did not begin.
    pub(super) fn close(&self) {
        self.pools.disk.close();
        self.pools.store.close();
        self.pools.turn.close();
    }

    /// Counts a request, in the thread that reads requests.
    pub(super) fn count(&self, opcode: Opcode) {
        self.parts.governor.enlist();
        self.parts.counters.add(opcode);
    }

    /// Runs an operation that needs no answer, and counts as so many requests of this kind.
    pub(super) fn run_unanswered(&self, opcode: Opcode, count: u64, run: impl FnOnce(&Filesystem)) {
        self.parts.governor.enlist();
        self.parts.counters.add_all(opcode, count);
        let run = AssertUnwindSafe(|| run(&self.fs));
        if let Err(panic) = catch_unwind(run) {
            log_panic(opcode, Ino::META, panic.as_ref());
        }
    }

    /// Runs `run` on this thread with what is on this machine, and answers with `finish`. If it
    /// would have to wait, it is run again on a thread that may. If its caller is killed while it
    /// waits, it does not happen.
    pub(super) fn serve<A: Answer, T>(
        &self,
        call: Call,
        answer: A,
        run: impl Fn(&Filesystem, &Caller, &mut A) -> Result<T, FsError> + Send + 'static,
        finish: impl FnOnce(T, A) + Send + 'static,
    ) {
        let ticket = self.begin(&call, WaitsFor::Nothing);
        let mut answer = answer;
        self.guarded(call, || {
            match run(&self.fs, &self.caller(&call, Fetch::LocalOnly), &mut answer) {
                Ok(value) => finish(value, answer),
                Err(FsError::NotLocal(missing)) => {
                    self.hand_over(call, Waiting { ticket, missing }, answer, run, finish);
                }
                Err(error) => fail(call, answer, &error),
            }
        });
    }

    /// Like `serve`, for an operation that leaves nothing behind: if its caller is killed while
    /// it waits for the store, it is answered at once.
    pub(super) fn serve_look<A: Answer, T>(
        &self,
        call: Call,
        answer: A,
        run: impl Fn(&Filesystem, &Caller) -> Result<T, FsError> + Send + 'static,
        finish: impl FnOnce(T, A) + Clone + Send + 'static,
    ) {
        self.serve_undoable(call, answer, run, finish, |_, _| {});
    }

    /// Like `serve_look`, for an operation of which `undo` takes back what it left behind.
    pub(super) fn serve_undoable<A: Answer, T>(
        &self,
        call: Call,
        answer: A,
        run: impl Fn(&Filesystem, &Caller) -> Result<T, FsError> + Send + 'static,
        finish: impl FnOnce(T, A) + Clone + Send + 'static,
        undo: impl FnOnce(&Filesystem, T) + Send + 'static,
    ) {
        let local = |fs: &Filesystem, caller: &Caller| run(fs, caller);
        let waiting = self.serve_borrowed(call, answer, local, finish.clone());
        if let Some((waiting, answer)) = waiting {
            self.hand_over_look(call, waiting, answer, run, (finish, undo));
        }
    }

    /// Like `serve_look`, on another thread from the beginning: for what takes so long that the
    /// thread which reads requests, and with it everybody on its core, had better go on.
    pub(super) fn serve_look_apart<A: Answer, T>(
        &self,
        call: Call,
        answer: A,
        run: impl Fn(&Filesystem, &Caller) -> Result<T, FsError> + Send + 'static,
        finish: impl FnOnce(T, A) + Clone + Send + 'static,
    ) {
        let ticket = self.begin(&call, WaitsFor::Disk);
        let server = self.clone();
        let job = Box::new(move || {
            let local = |fs: &Filesystem, caller: &Caller| run(fs, caller);
            let waiting = server.try_local(call, ticket, answer, local, finish.clone());
            if let Some((waiting, answer)) = waiting {
                let ends = (finish, |_: &Filesystem, _| {});
                server.hand_over_look(call, waiting, answer, run, ends);
            }
        });
        self.submit(&self.pools.disk, call, job);
    }

    /// The second half of `serve_undoable`: watches the caller while the operation waits.
    fn hand_over_look<A: Answer, T>(
        &self,
        call: Call,
        waiting: Waiting,
        answer: A,
        run: impl Fn(&Filesystem, &Caller) -> Result<T, FsError> + Send + 'static,
        (finish, undo): (
            impl FnOnce(T, A) + Send + 'static,
            impl FnOnce(&Filesystem, T) + Send + 'static,
        ),
    ) {
        let held = self.hold(&call, answer);
        let callers = Arc::clone(&self.callers);
        let run = move |fs: &Filesystem, caller: &Caller, _: &mut Held<A>| {
            callers.watch();
            run(fs, caller)
        };
        let fs = Arc::clone(&self.fs);
        let finish = move |value, held: Held<A>| match held.take() {
            Some(answer) => finish(value, answer),
            None => undo(&fs, value),
        };
        self.hand_over_whole(call, waiting, held, run, finish);
    }

    /// Holds an answer that is given at once if its caller is killed.
    fn hold<A: Answer>(&self, call: &Call, answer: A) -> Held<A> {
        self.callers.hold(call.origin.unique, call.origin.pid, answer)
    }

    /// Like `serve`, for what ends in a sync: on a thread that may wait for the local disk, or
    /// on this one while syncs are quick.
    pub(super) fn serve_sync<A: Answer, T>(
        &self,
        call: Call,
        answer: A,
        run: impl Fn(&Filesystem, &Caller, &mut A) -> Result<T, FsError> + Send + 'static,
        finish: impl FnOnce(T, A) + Send + 'static,
    ) {
        let ticket = self.begin(&call, WaitsFor::Disk);
        if let Some(_inline) = self.pace.inline() {
            return self.run_sync(call, ticket, answer, run, finish);
        }
        let server = self.clone();
        let job = Box::new(move || server.run_sync(call, ticket, answer, run, finish));
        self.submit(&self.pools.disk, call, job);
    }

    /// Like `serve_sync`, for a sync and nothing else: if its caller is killed while it waits for
    /// the disk, it is answered at once.
    pub(super) fn serve_sync_alone<A: Answer>(
        &self,
        call: Call,
        answer: A,
        run: impl Fn(&Filesystem, &Caller) -> Result<(), FsError> + Send + 'static,
        finish: impl FnOnce((), A) + Send + 'static,
    ) {
        let ticket = self.begin(&call, WaitsFor::Disk);
        if let Some(_inline) = self.pace.inline() {
            let run = move |fs: &Filesystem, caller: &Caller, _: &mut A| run(fs, caller);
            return self.run_sync(call, ticket, answer, run, finish);
        }
        let held = self.hold(&call, answer);
        let server = self.clone();
        let job = Box::new(move || {
            server.callers.watch();
            let run = move |fs: &Filesystem, caller: &Caller, _: &mut Held<A>| run(fs, caller);
            let finish = move |(), held: Held<A>| {
                if let Some(answer) = held.take() {
                    finish((), answer);
                }
            };
            server.run_sync(call, ticket, held, run, finish);
        });
        self.submit(&self.pools.disk, call, job);
    }

    fn run_sync<A: Answer, T>(
        &self,
        call: Call,
        ticket: Begun,
        answer: A,
        run: impl Fn(&Filesystem, &Caller, &mut A) -> Result<T, FsError> + Send + 'static,
        finish: impl FnOnce(T, A) + Send + 'static,
    ) {
        let clock = &self.parts.clock;
        let begun = clock.monotonic();
        let mut is_synced = false;
        self.guarded(call, || is_synced = self.run_local(call, ticket, answer, run, finish));
        // One that failed says nothing of how long one takes.
        if is_synced {
            self.pace.took(clock.monotonic().saturating_sub(begun));
        }
    }

    /// The first half of `serve`, for an operation whose arguments are borrowed from the
    /// request: `local` runs now. If it must wait, what `hand_over` takes comes back.
    pub(super) fn serve_borrowed<A: Answer, T>(
        &self,
        call: Call,
        answer: A,
        local: impl FnOnce(&Filesystem, &Caller) -> Result<T, FsError>,
        finish: impl FnOnce(T, A),
    ) -> Option<(Waiting, A)> {
        let ticket = self.begin(&call, WaitsFor::Nothing);
        self.try_local(call, ticket, answer, local, finish)
    }

    /// Runs `local` with what is on this machine and answers; if it must wait, what `hand_over`
    /// takes comes back.
    fn try_local<A: Answer, T>(
        &self,
        call: Call,
        ticket: Begun,
        answer: A,
        local: impl FnOnce(&Filesystem, &Caller) -> Result<T, FsError>,
        finish: impl FnOnce(T, A),
    ) -> Option<(Waiting, A)> {
        let mut waiting = None;
        self.guarded(call, || match local(&self.fs, &self.caller(&call, Fetch::LocalOnly)) {
            Ok(value) => finish(value, answer),
            Err(FsError::NotLocal(missing)) => {
                waiting = Some((Waiting { ticket, missing }, answer));
            }
            Err(error) => fail(call, answer, &error),
        });
        waiting
    }

    /// Queues an operation for the threads that may wait for what it lacks; `EIO` at once if the
    /// queue is full. If its caller is killed while it waits, it does not happen.
    pub(super) fn hand_over<A: Answer, T>(
        &self,
        call: Call,
        waiting: Waiting,
        answer: A,
        run: impl Fn(&Filesystem, &Caller, &mut A) -> Result<T, FsError> + Send + 'static,
        finish: impl FnOnce(T, A) + Send + 'static,
    ) {
        let pool = self.pools.waiting_for(&waiting.missing);
        let held = self.hold(&call, answer);
        let server = self.clone();
        let job = Box::new(move || {
            server.callers.watch();
            server.guarded(call, || server.run_in_steps(call, waiting, held, run, finish));
        });
        self.submit(pool, call, job);
    }

    /// Like `hand_over`, for an operation that begins to happen before it knows all that it lacks,
    /// or whose answer is held already: it waits by itself.
    fn hand_over_whole<A: Answer, T>(
        &self,
        call: Call,
        Waiting { ticket, missing }: Waiting,
        answer: A,
        run: impl Fn(&Filesystem, &Caller, &mut A) -> Result<T, FsError> + Send + 'static,
        finish: impl FnOnce(T, A) + Send + 'static,
    ) {
        let server = self.clone();
        let job = Box::new(move || {
            server.guarded(call, || server.run_waiting(call, ticket, answer, run, finish));
        });
        self.submit(self.pools.waiting_for(&missing), call, job);
    }

    fn submit(&self, pool: &Pool, call: Call, job: Job) {
        if pool.submit(job).is_err() {
            // Dropping the job answered the request.
            tracing::error!(
                opcode = %call.opcode,
                ino = %call.ino,
                "too many requests wait: answered with EIO"
            );
        }
    }

    /// Runs an operation that waits by itself if it must; whether it was done here and now.
    fn run_local<A: Answer, T>(
        &self,
        call: Call,
        ticket: Begun,
        mut answer: A,
        run: impl Fn(&Filesystem, &Caller, &mut A) -> Result<T, FsError> + Send + 'static,
        finish: impl FnOnce(T, A) + Send + 'static,
    ) -> bool {
        match run(&self.fs, &self.caller(&call, Fetch::LocalOnly), &mut answer) {
            Ok(value) => {
                finish(value, answer);
                return true;
            }
            Err(FsError::NotLocal(missing)) => {
                self.hand_over_whole(call, Waiting { ticket, missing }, answer, run, finish);
            }
            Err(error) => fail(call, answer, &error),
        }
        false
    }

    /// Brings what an operation lacks while its answer is held, and tries it with what is on this
    /// machine while it is not: given up in between, it leaves nothing behind.
    fn run_in_steps<A: Answer, T>(
        &self,
        call: Call,
        Waiting { ticket, mut missing }: Waiting,
        held: Held<A>,
        run: impl Fn(&Filesystem, &Caller, &mut A) -> Result<T, FsError>,
        finish: impl FnOnce(T, A),
    ) {
        self.parts.counters.add_waited();
        let deadline = ticket.ticket.request.arrived.saturating_add(self.deadline);
        let until = Fetch::Until(deadline);
        for _ in 0..STEPS_MAX {
            let waits_by_itself = call.waits_by_itself(&missing);
            if !waits_by_itself && let Err(error) = self.fs.bring(&missing, until) {
                return held.take().map_or((), |answer| fail(call, answer, &error));
            }
            let Some(mut answer) = held.take() else { return };
            let fetch = if waits_by_itself { until } else { Fetch::LocalOnly };
            match run(&self.fs, &self.caller(&call, fetch), &mut answer) {
                Ok(value) => return finish(value, answer),
                Err(FsError::NotLocal(lacking)) => missing = lacking,
                Err(error) => return fail(call, answer, &error),
            }
            held.put_back(answer);
            if self.parts.clock.monotonic() >= deadline {
                break;
            }
        }
        self.parts.counters.add_late();
        if let Some(answer) = held.take() {
            fail(call, answer, &missing.refusal());
        }
    }

    fn run_waiting<A: Answer, T>(
        &self,
        call: Call,
        ticket: Begun,
        mut answer: A,
        run: impl Fn(&Filesystem, &Caller, &mut A) -> Result<T, FsError>,
        finish: impl FnOnce(T, A),
    ) {
        self.parts.counters.add_waited();
        let deadline = ticket.ticket.request.arrived.saturating_add(self.deadline);
        let caller = self.caller(&call, Fetch::Until(deadline));
        for _ in 0..WAITING_TRIES_MAX {
            if self.parts.clock.monotonic() >= deadline {
                break;
            }
            match run(&self.fs, &caller, &mut answer) {
                Ok(value) => return finish(value, answer),
                Err(FsError::NotLocal(_)) => {}
                Err(error) => return fail(call, answer, &error),
            }
        }
        self.parts.counters.add_late();
        tracing::error!(opcode = %call.opcode, ino = %call.ino, "not served in time: EIO");
        answer.fail(Errno::EIO);
    }

    /// Counts a request and enters it into the table.
    fn begin(&self, call: &Call, waits_for: WaitsFor) -> Begun {
        self.count(call.opcode);
        let arrived = self.parts.clock.monotonic();
        let request = InFlightRequest { opcode: call.opcode, ino: call.ino, waits_for, arrived };
        let ticket = self.parts.in_flight.enter(call.origin.unique, request);
        let request = self.request_of(call);
        let answered = request.map(|request| Answered {
            fs: Arc::clone(&self.fs),
            request,
            is_held: Arc::clone(&self.parts.is_held),
        });
        Begun { ticket, _answered: answered }
    }

    fn caller(&self, call: &Call, fetch: Fetch) -> Caller {
        let Origin { uid, gid, .. } = call.origin;
        Caller { uid, gid, umask: call.umask, fetch, request: self.request_of(call) }
    }

    /// The request's number, if its carrying out must be noted.
    fn request_of(&self, call: &Call) -> Option<RequestId> {
        let connection = self.parts.connection.filter(|_| call.opcode.changes())?;
        Some(RequestId { connection, unique: kept::first_unique(call.origin.unique) })
    }

    /// What a request is to be answered with that came again and that the daemon before had
    /// carried out.
    pub(super) fn carried_out(&self, call: &Call) -> Option<u64> {
        let request = self.request_of(call).filter(|_| kept::is_resent(call.origin.unique))?;
        self.fs.carried_out(&request)
    }

    /// Like `serve`, for a change. If it was carried out before, `again` says from its result, and
    /// from what is there, what `run` would have said.
    pub(super) fn serve_change<A: Answer, T>(
        &self,
        call: Call,
        answer: A,
        run: impl Fn(&Filesystem, &Caller) -> Result<T, FsError> + Send + 'static,
        again: impl Fn(&Filesystem, &Caller, u64) -> Result<T, FsError> + Send + 'static,
        finish: impl FnOnce(T, A) + Send + 'static,
    ) {
        match self.carried_out(&call) {
            None => self.serve(call, answer, move |fs, caller, _| run(fs, caller), finish),
            Some(result) => {
                let run =
                    move |fs: &Filesystem, caller: &Caller, _: &mut A| again(fs, caller, result);
                self.serve(call, answer, run, finish);
            }
        }
    }

    /// See [`Filesystem::forget_requests_but`].
    pub(super) fn forget_requests_but(&self, uniques: &[u64]) {
        let Some(connection) = self.parts.connection else { return };
        let request = |&unique| RequestId { connection, unique: kept::first_unique(unique) };
        self.fs.forget_requests_but(&uniques.iter().map(request).collect::<Vec<_>>());
    }

    /// Asks the kernel for the orphans of which it may know from the daemon before.
    pub(super) fn ask_for_orphans(&self) {
        for ino in self.fs.inherited_orphans() {
            if !self.parts.news.is_known(ino) {
                tracing::debug!(%ino, "the kernel has forgotten an inherited orphan");
                self.fs.disown(ino);
            }
        }
    }

    /// Runs `work`; a panic drops the answer in it, which sends `EIO`, and is logged.
    fn guarded(&self, call: Call, work: impl FnOnce()) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
            log_panic(call.opcode, call.ino, panic.as_ref());
        }
    }
}

fn fail<A: Answer>(call: Call, answer: A, error: &FsError) {
    if error.is_unexpected() {
        tracing::error!(opcode = %call.opcode, ino = %call.ino, %error, "answered with EIO");
    }
    answer.fail(errno(error));
}

fn log_panic(opcode: Opcode, ino: Ino, panic: &(dyn std::any::Any + Send)) {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("unknown");
    tracing::error!(%opcode, %ino, text, "a handler panicked: answered with EIO");
}

#[cfg(test)]
mod tests;
