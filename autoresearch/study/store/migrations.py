"""The schema of study.db: named, append-only migrations, each in a transaction; comments say what NULL means."""

import json

from sqlite_utils import Database, Migrations

from autoresearch.study.store.ticks import number_moments

migrations = Migrations("autoresearch")


@migrations()
def m001_trajectory(db: Database) -> None:
    db.execute("""
        CREATE TABLE studies (
            id INTEGER PRIMARY KEY CHECK (id = 1),
            name TEXT NOT NULL,
            created_at TEXT NOT NULL,
            settings TEXT NOT NULL,          -- JSON, as before the first run; study.toml holds what is in force
            menu_sha256 TEXT NOT NULL,
            data_dir TEXT,                   -- NULL: not prepared yet
            data_sha256 TEXT,                -- NULL: not prepared yet
            incumbent INTEGER NOT NULL,      -- number of the trial whose recipe stands
            incumbent_commit TEXT NOT NULL,  -- where the branch `incumbent` belongs
            control TEXT NOT NULL CHECK (control IN ('run', 'pause', 'stop'))
        )""")
    db.execute("""
        CREATE TABLE trials (
            number INTEGER PRIMARY KEY,      -- 0 is the baseline
            parent INTEGER REFERENCES trials(number),  -- the trial whose recipe was changed; NULL: the baseline
            proposer TEXT NOT NULL,
            changes TEXT NOT NULL,           -- JSON, knob -> new value; {} until the rails have passed it
            recipe TEXT NOT NULL,            -- JSON, all knobs; {} if blocked
            recipe_key TEXT,                 -- canonical hash of the recipe; NULL if blocked
            hypothesis TEXT NOT NULL,        -- the proposer's reason, cleaned; '' if none was readable
            expected_delta REAL,             -- the proposer's own forecast; NULL: it gave none
            state TEXT NOT NULL CHECK (state IN
                ('proposed', 'blocked', 'running', 'complete', 'failed', 'timed_out', 'abandoned')),
            decision TEXT CHECK (decision IN ('keep', 'discard')),  -- NULL: nothing was decided
            rail TEXT,                       -- the rail that blocked it; NULL: none did
            reason TEXT NOT NULL,            -- of the verdict, the decision or the failure; '' while open
            val_bpb REAL,                    -- mean over complete runs; NULL unless state is complete
            val_bpb_stderr REAL,             -- from the study's pooled deviation; NULL unless complete
            n_runs INTEGER NOT NULL,         -- complete runs
            reference INTEGER REFERENCES trials(number),  -- the trial it was compared with; NULL unless compared
            improvement REAL,                -- reference minus candidate, bits per byte; NULL unless compared
            improvement_low REAL,            -- 95 % interval of it; NULL unless compared
            improvement_high REAL,
            test_bpb REAL,                   -- mean over runs that scored the test text; NULL: none did
            "commit" TEXT,                   -- what was trained; NULL if blocked
            merge_commit TEXT,               -- on branch incumbent; NULL unless kept
            energy_joules REAL,              -- sum over its runs; NULL: no run has ended
            energy_source TEXT,              -- nvml, rapl, estimate, or several joined by +; NULL likewise
            started_at TEXT NOT NULL,
            finished_at TEXT,                -- NULL: still open
            CHECK (val_bpb IS NULL OR state = 'complete')
        )""")
    db.execute("""
        CREATE TABLE proposals (
            id INTEGER PRIMARY KEY,
            trial INTEGER UNIQUE REFERENCES trials(number),  -- NULL: an idea that waits for its turn
            proposer TEXT NOT NULL,
            prompt TEXT,                     -- what was shown; NULL: nothing was (no language model)
            raw TEXT NOT NULL,               -- what was answered, verbatim and untrusted
            model TEXT,                      -- NULL: no language model
            latency_seconds REAL NOT NULL,
            prompt_tokens INTEGER,           -- NULL: not counted
            completion_tokens INTEGER,       -- NULL: not counted
            passed INTEGER,                  -- 1 or 0; NULL: not judged yet
            rail TEXT,                       -- NULL: passed, or not judged yet
            reason TEXT NOT NULL,            -- of the verdict
            created_at TEXT NOT NULL
        )""")
    db.execute("""
        CREATE TABLE runs (
            trial INTEGER NOT NULL REFERENCES trials(number),
            seed INTEGER NOT NULL,
            purpose TEXT NOT NULL CHECK (purpose IN ('candidate', 'reference')),
            state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'complete', 'failed')),
            attempts INTEGER NOT NULL,       -- times handed to a worker
            failure TEXT,                    -- NULL unless failed
            message TEXT NOT NULL,           -- one line about the failure; '' if none
            failed_step INTEGER,             -- NULL unless it diverged
            val_bpb REAL,                    -- NULL unless complete, as all measurements below
            test_bpb REAL,                   -- NULL for candidates: no decision may read it
            tokens INTEGER, steps INTEGER, params INTEGER,
            train_seconds REAL, eval_seconds REAL, total_seconds REAL, cpu_seconds REAL,
            tokens_per_second REAL,
            peak_memory_bytes INTEGER,
            energy_joules REAL,              -- NULL: not ended
            energy_source TEXT,              -- nvml, rapl or estimate; NULL: not ended
            curve TEXT,                      -- JSON [[step, training loss in nats per token], ...]
            device TEXT,
            versions TEXT,                   -- JSON
            started_at TEXT, finished_at TEXT,
            PRIMARY KEY (trial, seed)
        )""")
    db.execute("""
        CREATE TABLE events (
            id INTEGER PRIMARY KEY,
            at TEXT NOT NULL,
            kind TEXT NOT NULL,
            trial INTEGER,                   -- NULL: about the study
            message TEXT NOT NULL
        )""")
    db.execute("CREATE INDEX runs_by_state ON runs(state)")
    db.execute("CREATE INDEX trials_by_state ON trials(state)")
    db.execute("CREATE INDEX trials_by_key ON trials(recipe_key)")


@migrations()
def m002_speed(db: Database) -> None:
    for column in (
        "data_seconds REAL",  # of the mean step after the first; NULL: not complete, or made before this was measured
        "forward_seconds REAL",
        "backward_seconds REAL",
        "optimizer_seconds REAL",
        "first_step_seconds REAL",  # from the request to the end of the first step; NULL likewise
        "mfu REAL",  # share of peak_flops that the model's own FLOPs took; NULL likewise
        "peak_flops REAL",  # per second, in the run's precision; NULL likewise
        "peak_flops_source TEXT",  # datasheet or measured; NULL likewise
    ):
        db.execute(f"ALTER TABLE runs ADD COLUMN {column}")


@migrations()
def m003_imports(db: Database) -> None:
    # JSON: format, file, sha256 and what of the source belongs to no trial; NULL: the study was made here
    db.execute("ALTER TABLE studies ADD COLUMN source TEXT")
    # what the trial was imported from, verbatim and untrusted; NULL: it was run here
    db.execute("ALTER TABLE trials ADD COLUMN source TEXT")


@migrations()
def m004_promotions(db: Database) -> None:
    db.execute("""
        CREATE TABLE promotions (
            trial INTEGER NOT NULL REFERENCES trials(number),
            factor REAL NOT NULL,            -- times the study's budget
            seed INTEGER NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('complete', 'failed')),
            failure TEXT,                    -- NULL unless failed
            message TEXT NOT NULL,           -- one line about the failure; '' if none
            failed_step INTEGER,             -- NULL unless it diverged
            val_bpb REAL,                    -- NULL unless complete, as all measurements below
            test_bpb REAL,
            tokens INTEGER, steps INTEGER,
            train_seconds REAL, total_seconds REAL,
            energy_joules REAL NOT NULL,
            energy_source TEXT NOT NULL,     -- nvml, rapl or estimate
            curve TEXT NOT NULL,             -- JSON [[step, training loss in nats per token], ...]
            device TEXT,
            finished_at TEXT NOT NULL,
            PRIMARY KEY (trial, factor, seed)
        )""")


@migrations()
def m005_cancelled_runs(db: Database) -> None:
    _remake(db, "runs", "'complete', 'failed'))", "'complete', 'failed', 'cancelled'))")


def _remake(db: Database, name: str, before: str, after: str) -> None:
    """SQLite cannot alter a CHECK: the table is made again, from its own text, so that it keeps what it has besides."""
    parts = db.execute("SELECT type, sql FROM sqlite_master WHERE tbl_name = ? AND sql IS NOT NULL", [name]).fetchall()
    (table,) = (sql for kind, sql in parts if kind == "table")
    assert table.count(before) == 1, "what is replaced stands there once"
    db.execute("PRAGMA defer_foreign_keys = ON")  # until the table is there again
    db.execute(f"CREATE TEMP TABLE kept AS SELECT * FROM {name}")
    db.execute(f"DROP TABLE {name}")
    db.execute(table.replace(before, after))
    db.execute(f"INSERT INTO {name} SELECT * FROM kept")
    db.execute("DROP TABLE kept")
    for kind, sql in parts:
        if kind != "table":
            db.execute(sql)


@migrations()
def m006_logical_time(db: Database) -> None:
    # of the study's logical clock, which goes on by one when a trial is opened or closed and when a run has ended
    db.execute("ALTER TABLE studies ADD COLUMN tick INTEGER NOT NULL DEFAULT 0")
    db.execute("ALTER TABLE trials ADD COLUMN opened_tick INTEGER")  # NULL: written by hand, at no known moment
    db.execute("ALTER TABLE trials ADD COLUMN closed_tick INTEGER")  # NULL: still open
    db.execute("ALTER TABLE runs ADD COLUMN ended_tick INTEGER")  # NULL: not ended
    # JSON: what rails.Limits held but for the measurements; NULL: made before this was kept, or its source tells it not
    db.execute("ALTER TABLE proposals ADD COLUMN limits TEXT")
    db.execute("ALTER TABLE proposals ADD COLUMN deviation REAL")  # the run-to-run one that was shown; NULL likewise
    imported = db.execute("SELECT 1 FROM studies WHERE source IS NOT NULL").fetchone()
    number_moments(db, one_by_one=imported is not None)


@migrations()
def m007_menu_text(db: Database) -> None:
    # menu.toml as the study began with it; NULL: made before this was kept, and not opened since
    db.execute("ALTER TABLE studies ADD COLUMN menu TEXT")


@migrations()
def m008_compute(db: Database) -> None:
    # of the whole run, FLOPs a token x tokens; NULL: it ended before its model was built, or nobody counted
    db.execute("ALTER TABLE runs ADD COLUMN flops REAL")
    # MFU was made from FLOPs a token, a whole number, which it therefore still tells.
    db.execute("""
        UPDATE runs SET flops = ROUND(mfu * peak_flops / tokens_per_second) * tokens
        WHERE mfu > 0 AND peak_flops > 0 AND tokens_per_second > 0 AND tokens > 0""")


@migrations()
def m009_window_score(db: Database) -> None:
    # val_bpb in windows of the baseline's seq_len; NULL: not complete, windows that the recipe was not trained on, or
    # made before this was measured
    db.execute("ALTER TABLE runs ADD COLUMN window_bpb REAL")
    db.execute("ALTER TABLE promotions ADD COLUMN window_bpb REAL")  # NULL likewise
    if db.execute("SELECT 1 FROM studies WHERE source IS NOT NULL").fetchone():
        return  # in which windows a stranger scores is not known
    windows = {
        trial: json.loads(recipe).get("seq_len")
        for trial, recipe in db.execute("SELECT number, recipe FROM trials").fetchall()
    }
    same = [(trial,) for trial, window in windows.items() if window is not None and window == windows[0]]
    for table in ("runs", "promotions"):
        db.conn.executemany(f"UPDATE {table} SET window_bpb = val_bpb WHERE trial = ?", same)


@migrations()
def m010_carried_and_confirmed(db: Database) -> None:
    # the trial whose change is made again on another recipe; NULL: a new idea
    db.execute("ALTER TABLE proposals ADD COLUMN carries INTEGER REFERENCES trials(number)")
    _remake(db, "runs", "('candidate', 'reference')", "('candidate', 'reference', 'confirmation')")


@migrations()
def m011_begun_from(db: Database) -> None:
    db.execute("ALTER TABLE studies ADD COLUMN begun_from TEXT")  # JSON: study, trial; NULL: from a preset
    db.execute("ALTER TABLE studies ADD COLUMN first_seed INTEGER NOT NULL DEFAULT 0")  # of the baseline


@migrations()
def m012_taken_back(db: Database) -> None:
    # the study's tick when fresh runs took the keep back, since when it counts as discarded; NULL: they did not
    db.execute("ALTER TABLE trials ADD COLUMN kept_until INTEGER")


@migrations()
def m013_stopped_early(db: Database) -> None:
    _remake(db, "runs", "'failed', 'cancelled'))", "'failed', 'cancelled', 'stopped'))")
    _remake(db, "trials", "'timed_out', 'abandoned')", "'timed_out', 'abandoned', 'stopped')")


@migrations()
def m014_attempts(db: Database) -> None:
    db.execute("""
        CREATE TABLE attempts (
            proposal INTEGER NOT NULL REFERENCES proposals(id),
            n INTEGER NOT NULL,              -- from 1, in the order of asking
            asked TEXT NOT NULL,             -- beyond the proposal's prompt and the attempts before; '' for the first
            answer TEXT NOT NULL,            -- verbatim and untrusted
            rail TEXT,                       -- what blocked it; NULL: nothing did
            reason TEXT NOT NULL,            -- of the verdict
            latency_seconds REAL NOT NULL,
            prompt_tokens INTEGER,           -- NULL: not counted
            completion_tokens INTEGER,       -- NULL: not counted
            PRIMARY KEY (proposal, n)
        )""")
    # the study's tick when its proposer was asked; NULL: when its trial was opened
    db.execute("ALTER TABLE proposals ADD COLUMN asked_tick INTEGER")
    # the trial whose recipe stood then; NULL: the trial's parent
    db.execute("ALTER TABLE proposals ADD COLUMN asked_on INTEGER REFERENCES trials(number)")


@migrations()
def m015_lessons(db: Database) -> None:
    db.execute("""
        CREATE TABLE reflections (
            trial INTEGER PRIMARY KEY REFERENCES trials(number),  -- with whose proposal a model was asked for lessons
            prompt TEXT NOT NULL,            -- what was shown
            answer TEXT,                     -- verbatim and untrusted; NULL: none came
            model TEXT NOT NULL,
            latency_seconds REAL NOT NULL,
            prompt_tokens INTEGER,           -- NULL: not counted
            completion_tokens INTEGER,       -- NULL: not counted
            note TEXT NOT NULL               -- why there is no answer or why some of it was left out; '' if neither
        )""")
    db.execute("""
        CREATE TABLE lessons (
            id INTEGER PRIMARY KEY,
            trial INTEGER NOT NULL REFERENCES reflections(trial),
            knob TEXT NOT NULL,
            move TEXT NOT NULL CHECK (move IN ('higher', 'lower', 'other value')),
            effect TEXT NOT NULL CHECK (effect IN ('helps', 'hurts')),
            trials TEXT NOT NULL,            -- JSON: the numbers of those that it is from; later ones tell if it stands
            text TEXT NOT NULL
        )""")


@migrations()
def m016_proposer_energy(db: Database) -> None:
    # of a model on this machine's GPUs, for all that it was asked for the trial; NULL: no model, elsewhere, not metered
    db.execute("ALTER TABLE proposals ADD COLUMN energy_joules REAL")
    # nvml, nvml power, estimate, or several joined by +; NULL likewise
    db.execute("ALTER TABLE proposals ADD COLUMN energy_source TEXT")


@migrations()
def m017_script(db: Database) -> None:
    # the script that the study turns the constants of, as it was then: name and text; NULL: there is none
    db.execute("ALTER TABLE studies ADD COLUMN script_name TEXT")
    db.execute("ALTER TABLE studies ADD COLUMN script TEXT")
    # the commit of the script's own repository that was checked out then; NULL: none, or nothing was committed
    db.execute("ALTER TABLE studies ADD COLUMN script_commit TEXT")


@migrations()
def m018_repeats(db: Database) -> None:
    # runs repeated on another class of device; no runs of the trial
    db.execute("""
        CREATE TABLE repeats (
            trial INTEGER NOT NULL REFERENCES trials(number),
            seed INTEGER NOT NULL,
            device TEXT NOT NULL,            -- the class that it was repeated on
            against TEXT NOT NULL,           -- the class that the trial's own run was made on
            val_bpb REAL NOT NULL,
            val_bpb_against REAL NOT NULL,
            energy_joules REAL NOT NULL,
            energy_source TEXT NOT NULL,
            finished_at TEXT NOT NULL,
            PRIMARY KEY (trial, seed, device, against)
        )""")
