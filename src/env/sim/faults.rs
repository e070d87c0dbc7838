//! Faults to order: calls that fail, syncs that lie, and the moment of death.
//!
//! Order of checks at each call: a dead machine answers nothing; a mutating call counts, and may be the one that dies;
//! then injected faults, the oldest that matches first.

use std::collections::BTreeSet;
use std::io;

use super::crash::Rng;
use crate::env::fs::SyncSite;

/// A kind of call, as faults name it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// `open` in any mode, `lock`.
    Open,
    /// `read_exact_at`, `map`, `populate`.
    Read,
    /// `write_all_at`.
    Write,
    /// `set_len`.
    SetLen,
    /// `sync_data`, also by `sync_many`.
    SyncData,
    /// `sync_dir`, also by `sync_dirs`.
    SyncDir,
    /// `create_dir`.
    CreateDir,
    /// `rename`; either path may match.
    Rename,
    /// `link`; either path may match.
    Link,
    /// `remove_file`, `remove_dir_all`.
    Remove,
    /// `list`, `stat`.
    Look,
}

/// How a faulty call fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// With an error of this kind, and no effect.
    Kind(io::ErrorKind),
    /// With this error number of the operating system, and no effect.
    Os(i32),
    /// A sync fails with `EIO` and the page cache drops what was not on disk: reads still see it until the cache is
    /// dropped, and no later sync brings it back. With other calls, like `Os(EIO)`.
    LosesDirtyPages,
}

/// The next `times` calls of a kind fail where the path contains a text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Which calls.
    pub call: Call,
    /// What the path contains; empty for every path. A handle has the path it was opened by.
    pub path_contains: String,
    /// How often.
    pub times: u32,
    /// How.
    pub failure: Failure,
}

/// The machine has died at a call chosen by `SimFs::fail_after`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("simulated crash")]
pub struct SimulatedCrash;

impl SimulatedCrash {
    /// Tells whether `error` says that the simulated machine has died.
    pub fn caused(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|source| source.is::<Self>())
    }

    fn error() -> io::Error {
        io::Error::other(Self)
    }
}

impl Failure {
    fn error(self) -> io::Error {
        match self {
            Self::Kind(kind) => kind.into(),
            Self::Os(number) => io::Error::from_raw_os_error(number),
            Self::LosesDirtyPages => rustix::io::Errno::IO.into(),
        }
    }
}

/// What is going to go wrong, and what was seen so far.
#[derive(Debug, Default)]
pub(super) struct Faults {
    faults: Vec<Fault>,
    mutations: u64,
    dies_at: Option<u64>,
    life: Life,
    sites: BTreeSet<&'static str>,
    disabled: BTreeSet<&'static str>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Life {
    #[default]
    Alive,
    Dead,
}

/// Why a call does not go through, and what it does all the same.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Nothing happens.
    Plain(io::Error),
    /// The machine dies in this very call, which may have got somewhere.
    Dying(io::Error, Rng),
    /// A sync drops the dirty pages.
    LosesDirtyPages(io::Error),
}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Plain(error) | Refusal::Dying(error, _) | Refusal::LosesDirtyPages(error) => error,
        }
    }
}

/// Whether a sync does what it says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SyncEffect {
    Real,
    None,
}

impl Faults {
    /// Lets a call that no fault can be ordered for through, or not.
    pub(super) fn check_alive(&self) -> Result<(), Refusal> {
        match self.life {
            Life::Alive => Ok(()),
            Life::Dead => Err(Refusal::Plain(SimulatedCrash::error())),
        }
    }

    /// Lets a call that changes nothing through, or not.
    pub(super) fn look(&mut self, call: Call, paths: &[&str]) -> Result<(), Refusal> {
        self.check_alive()?;
        let matching = |fault: &Fault| {
            fault.call == call && paths.iter().any(|path| path.contains(&fault.path_contains))
        };
        let Some(index) = self.faults.iter().position(matching) else {
            return Ok(());
        };
        let fault = &mut self.faults[index];
        let failure = fault.failure;
        fault.times -= 1;
        if fault.times == 0 {
            self.faults.remove(index);
        }
        Err(match failure {
            Failure::LosesDirtyPages => Refusal::LosesDirtyPages(failure.error()),
            Failure::Kind(_) | Failure::Os(_) => Refusal::Plain(failure.error()),
        })
    }

    /// Counts a call that changes something, and lets it through or not.
    pub(super) fn mutate(&mut self, call: Call, paths: &[&str]) -> Result<(), Refusal> {
        if self.life == Life::Alive {
            if self.dies_at == Some(self.mutations) {
                self.life = Life::Dead;
                return Err(Refusal::Dying(SimulatedCrash::error(), Rng::new(self.mutations)));
            }
            self.mutations += 1;
        }
        self.look(call, paths)
    }

    /// Notes where a sync comes from, and says whether it works.
    pub(super) fn sync_effect(&mut self, site: SyncSite) -> SyncEffect {
        self.sites.insert(site.0);
        if self.disabled.contains(site.0) {
            return SyncEffect::None;
        }
        SyncEffect::Real
    }

    pub(super) fn inject(&mut self, fault: Fault) {
        if fault.times > 0 {
            self.faults.push(fault);
        }
    }

    pub(super) fn die_after(&mut self, mutations: u64) {
        self.dies_at = Some(self.mutations.saturating_add(mutations));
    }

    pub(super) fn mutations(&self) -> u64 {
        self.mutations
    }

    pub(super) fn disable(&mut self, site: SyncSite) {
        self.disabled.insert(site.0);
    }

    pub(super) fn sites(&self) -> Vec<SyncSite> {
        self.sites.iter().copied().map(SyncSite).collect()
    }

    /// Another process begins on the machine: no death and no fault is ordered any more.
    pub(super) fn revive(&mut self) {
        self.life = Life::Alive;
        self.dies_at = None;
        self.faults.clear();
    }

    /// Returns those of the machine that starts again: only the disabled syncs are a property of the code and stay.
    pub(super) fn after_crash(&self) -> Self {
        Self {
            disabled: self.disabled.clone(),
            ..Self::default()
        }
    }
}
