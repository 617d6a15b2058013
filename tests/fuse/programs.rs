//! Programs that ask much of a filesystem.

use crate::harness::Mount;

#[test]
fn sqlite_works_in_every_journal_mode() {
    let mount = Mount::new();
    mount.py(r#"
import sqlite3
for mode in ("delete", "truncate", "persist", "memory", "wal", "off"):
    path = f"{mode}.db"
    db = sqlite3.connect(path, isolation_level=None)
    got = db.execute(f"pragma journal_mode={mode}").fetchone()[0]
    assert got == mode, (got, mode)
    db.execute("create table t (k integer primary key, v blob)")
    for i in range(20):
        db.execute("begin")
        db.executemany("insert into t(v) values (?)", [(os.urandom(500),) for _ in range(50)])
        db.execute("commit")
    if mode != "off":
        db.execute("begin"); db.execute("delete from t"); db.execute("rollback")
    reader = '''
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
assert db.execute("select count(*) from t").fetchone()[0] == 1000
assert db.execute("pragma integrity_check").fetchone()[0] == "ok"
'''
    subprocess.check_call([sys.executable, "-c", reader, path])
    db.execute("delete from t where k % 2"); db.execute("vacuum")
    db.close()
    assert sqlite3.connect(path).execute("select count(*) from t").fetchone()[0] == 500
"#);
}

#[test]
fn sqlite_writers_in_several_processes_do_not_lose_updates() {
    let mount = Mount::new();
    mount.py(r#"
import sqlite3
for mode in ("wal", "delete"):
    db = sqlite3.connect(f"shared-{mode}.db")
    db.execute(f"pragma journal_mode={mode}")
    db.execute("create table n (v integer)"); db.execute("insert into n values (0)"); db.commit()
    writer = '''
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
db.execute("pragma synchronous=off")
for _ in range(100):
    db.execute("begin immediate"); db.execute("update n set v = v + 1"); db.execute("commit")
'''
    children = [subprocess.Popen([sys.executable, "-c", writer, f"shared-{mode}.db"])
                for _ in range(4)]
    assert [c.wait() for c in children] == [0] * 4
    assert db.execute("select v from n").fetchone()[0] == 400
"#);
}

#[test]
fn git_makes_a_repository_commits_packs_and_checks_it() {
    let mount = Mount::new();
    mount.sh(r#"
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
git init -q repo; cd repo
mkdir -p src/deep
for i in $(seq 200); do echo "line $i" > src/file$i; echo "$i" > src/deep/$i; done
git add -A; git commit -qm first
test -z "$(git status --porcelain)"
for i in $(seq 50); do echo changed >> src/file$i; done
rm src/deep/1; git mv src/deep/2 src/moved
test "$(git status --porcelain | wc -l)" = 52
git commit -qam second
git checkout -q HEAD~1; test "$(cat src/deep/2)" = 2; git checkout -q -
git gc -q --aggressive; git fsck --full --strict
git clone -q . ../clone; cd ../clone; test -z "$(git status --porcelain)"
git worktree add -q ../tree HEAD~1; test "$(cat ../tree/src/file1)" = "line 1"
"#);
}

#[test]
fn archives_unpack_to_what_was_packed() {
    let mount = Mount::new();
    mount.sh(r#"
mkdir a; cd a
for i in $(seq 300); do echo "$i" > f$i; done
mkdir -p d/e; ln f1 d/hard; ln -s ../f2 d/e/soft; mkfifo pipe; chmod 4711 f3; chown 5:6 f4
touch -d '1999-12-31 23:59:59.987654321' f5; truncate -s 10M sparse; echo x >> sparse
cd ..; tar --format=posix --sparse -cf a.tar a; mkdir b; tar -C b -xpf a.tar
(cd a; find . -printf '%p %y %m %U %G %n %s %T@ %l\n' | sort) > list-a
(cd b/a; find . -printf '%p %y %m %U %G %n %s %T@ %l\n' | sort) > list-b
cmp list-a list-b; diff -r --no-dereference -x pipe a b/a
cp -a a c; (cd c; find . -printf '%p %y %m %U %G %n %s %T@ %l\n' | sort) > list-c
cmp list-a list-c
test "$(stat -c %b b/a/sparse)" -lt 100
rm -rf a b c
"#);
}

#[test]
fn a_program_built_in_the_mount_runs_there() {
    let mount = Mount::new();
    mount.sh(r#"
printf '#!/bin/sh\necho script "$1"\n' > run; chmod +x run
test "$(./run works)" = 'script works'
cp /bin/true ./copied; ./copied
if command -v cc > /dev/null; then
  printf '#include <stdio.h>\nint main(void) { puts("built"); return 0; }\n' > m.c
  cc -g -o m m.c
  test "$(./m)" = built
  printf 'int f(void) { return 7; }\n' > lib.c; cc -shared -fPIC -o lib.so lib.c
  /usr/bin/python3 -c 'import ctypes; assert ctypes.CDLL("./lib.so").f() == 7'
fi
"#);
}

#[test]
fn many_processes_at_once_see_each_others_files() {
    let mount = Mount::new();
    mount.sh(r#"
for w in 1 2 3 4 5 6 7 8; do
  ( mkdir w$w; for i in $(seq 100); do echo $w-$i > w$w/$i; mv w$w/$i w$w/r$i; done ) &
done
wait
test "$(find . -type f | wc -l)" = 800
for w in 1 2 3 4 5 6 7 8; do test "$(cat w$w/r100)" = $w-100; done
"#);
}
