// Cores that are broken on purpose: one text for another in a source file of the core. `build.rs` makes a module of each,
// and fails when a text is not there exactly once.

/// One change.
pub struct Mutant {
    /// What is broken.
    pub name: &'static str,
    /// Source file below `core/src/registry`.
    pub file: &'static str,
    /// What is there.
    pub find: &'static str,
    /// What is there instead.
    pub replace: &'static str,
}

/// All of them.
pub const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "tell_before_record",
        file: "life.rs",
        find: "        effects.push(Effect::RecordExit(instance, exit.clone()));
        effects.push(Effect::Reap(instance));
        self.give_up_change(effects);
        for waiter in self.waiters.drain(..) {
            effects.push(Effect::Reply(waiter, Reply::Exit(exit.clone())));
        }",
        replace: "        self.give_up_change(effects);
        for waiter in self.waiters.drain(..) {
            effects.push(Effect::Reply(waiter, Reply::Exit(exit.clone())));
        }
        effects.push(Effect::RecordExit(instance, exit.clone()));
        effects.push(Effect::Reap(instance));",
    },
    Mutant {
        name: "reap_before_record",
        file: "life.rs",
        find: "        effects.push(Effect::RecordExit(instance, exit.clone()));
        effects.push(Effect::Reap(instance));",
        replace: "        effects.push(Effect::Reap(instance));
        effects.push(Effect::RecordExit(instance, exit.clone()));",
    },
    Mutant {
        name: "double_answer",
        file: "life.rs",
        find: "            effects.push(Effect::Reply(waiter, Reply::Exit(exit.clone())));",
        replace: "            effects.push(Effect::Reply(waiter, Reply::Exit(exit.clone())));
            effects.push(Effect::Reply(waiter, Reply::Exit(exit.clone())));",
    },
    Mutant {
        name: "forgotten_waiters",
        file: "life.rs",
        find: "            self.fail_waiters(&failure, effects);
            // The preparation",
        replace: "            // The preparation",
    },
    Mutant {
        name: "abandoned_and_told",
        file: "life.rs",
        find: "self.waiters.retain(|waiter| *waiter != ticket);",
        replace: "let _ = ticket;",
    },
    Mutant {
        name: "waiters_without_limit",
        file: "life.rs",
        find: "if self.waiters.len() < WAITERS_PER_CONTAINER_MAX {",
        replace: "if self.waiters.len() < WAITERS_PER_CONTAINER_MAX + 1 {",
    },
    Mutant {
        name: "execs_without_limit",
        file: "mod.rs",
        find: "|| total >= EXECS_MAX",
        replace: "|| total > EXECS_MAX",
    },
    Mutant {
        name: "leak_after_delete",
        file: "mod.rs",
        find: "                    if let Some(life) = self.lives.remove(&exec) {
                        life.gone_with_container(effects);
                    }",
        replace: "                    if let Some(life) = self.lives.get(&exec) {
                        life.clone().gone_with_container(effects);
                    }",
    },
    Mutant {
        name: "name_not_freed",
        file: "mod.rs",
        find: "self.by_id.remove(&name);",
        replace: "let _ = &name;",
    },
    Mutant {
        name: "init_before_execs",
        file: "mod.rs",
        find: "        let held = live && matches!",
        replace: "        let held = false && live && matches!",
    },
    Mutant {
        name: "removed_under_its_execs",
        file: "mod.rs",
        find: "            if !busy {",
        replace: "            if !busy || live {",
    },
    Mutant {
        name: "exit_before_start",
        file: "life.rs",
        find: "            Phase::Creating { early_exit, .. } | Phase::Starting { early_exit, .. } => *early_exit = Some(exit),",
        replace: "            Phase::Creating { early_exit, .. } => *early_exit = Some(exit),
            Phase::Starting { .. } => self.ended = Some(exit),",
    },
    Mutant {
        name: "early_exit_dropped",
        file: "life.rs",
        find: "        if self.doomed || !self.deleters.is_empty() {
            effects.push(self.end_it(instance));
        }
        if let Some(exit) = early_exit {",
        replace: "        if self.doomed || !self.deleters.is_empty() {
            effects.push(self.end_it(instance));
        }
        if let Some(exit) = early_exit.filter(|_| false) {",
    },
    Mutant {
        name: "auto_remove_forgotten",
        file: "life.rs",
        find: "        if self.auto_remove || !self.deleters.is_empty() {",
        replace: "        if !self.deleters.is_empty() {",
    },
    Mutant {
        name: "auto_remove_forgotten_after_a_crash",
        file: "recovery.rs",
        find: "        Standing::Told(exit) if remains.auto_remove => {",
        replace: "        Standing::Told(exit) if remains.auto_remove && false => {",
    },
    Mutant {
        name: "deleted_before_it_is",
        file: "life.rs",
        find: "            Phase::Removing { replies, .. } => replies.push(ticket),
            // As",
        replace: "            Phase::Removing { .. } => effects.push(Effect::Reply(ticket, Reply::Done)),
            // As",
    },
    Mutant {
        name: "exit_told_again_after_a_crash",
        file: "recovery.rs",
        find: "(Some(exit), _) => Standing::Told(exit.clone()),",
        replace: "(Some(exit), _) => Standing::Ended(exit.clone()),",
    },
    Mutant {
        name: "execs_forgotten_after_a_crash",
        file: "recovery.rs",
        find: "            self.enter_exec(container.instance, &name, exec.instance);",
        replace: "            let _ = container.instance;",
    },
    Mutant {
        name: "keeper_not_awaited",
        file: "recovery.rs",
        find: "        (None, None) => Standing::Unaccounted,",
        replace: "        (None, None) => Standing::Alive,",
    },
    Mutant {
        name: "exit_invented_after_a_crash",
        file: "recovery.rs",
        find: "        (None, Some(&kept)) => Standing::Ended(kept.clone()),",
        replace: "        (None, Some(_)) => Standing::Unaccounted,",
    },
    Mutant {
        name: "pause_answered_before_it_is_told",
        file: "life/pause.rs",
        find: "                effects.push(Effect::Publish(instance, kind));
                effects.push(Effect::Reply(reply, Reply::Done));",
        replace: "                effects.push(Effect::Reply(reply, Reply::Done));
                effects.push(Effect::Publish(instance, kind));",
    },
    Mutant {
        name: "pause_of_what_ends_forgotten",
        file: "life.rs",
        find: "        self.give_up_change(effects);
        for waiter",
        replace: "        for waiter",
    },
    Mutant {
        name: "told_of_what_never_ran",
        file: "life.rs",
        find: "if self.untold && exit.never_ran",
        replace: "if self.untold && exit.never_ran && false",
    },
    Mutant {
        name: "created_and_undone",
        file: "life.rs",
        find: "if self.untold && exit.never_ran",
        replace: "if exit.never_ran",
    },
    Mutant {
        name: "waiters_of_what_is_undone_forgotten",
        file: "life.rs",
        find: "        self.fail_waiters(&failure, effects);
        self.give_up",
        replace: "        self.give_up",
    },
    Mutant {
        name: "pause_forgotten_after_a_crash",
        file: "recovery.rs",
        find: "        Standing::Alive if paused =>",
        replace: "        Standing::Alive if paused && false =>",
    },
    Mutant {
        name: "pause_told_as_resume",
        file: "life/pause.rs",
        find: "let kind = if to_paused {",
        replace: "let kind = if !to_paused {",
    },
    Mutant {
        name: "oom_before_start",
        file: "life/pause.rs",
        find: "            Phase::Creating { .. } | Phase::Starting { .. } => self.early_oom = true,",
        replace: "            Phase::Creating { .. } | Phase::Starting { .. } => {
                effects.push(Effect::Publish(instance, EventKind::OutOfMemory));
            }",
    },
    Mutant {
        name: "oom_not_told",
        file: "life/pause.rs",
        find: "if std::mem::take(&mut self.early_oom) {",
        replace: "if std::mem::take(&mut self.early_oom) && false {",
    },
];
