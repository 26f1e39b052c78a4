# What the packages of maand-agent do around their files. The format's own way of saying which of these is due is
# added by packaging/src/dist/script.rs.

# A ledger of a newer maand-agent would be refused when this one starts: so it is not put in its place at all.
# The schema is SQLite's user_version, four bytes from 60 on.
refuse_older() {
    for ledger in /opt/worker/*/.maand/ledger.db; do
        [ -f "$ledger" ] || continue
        # Four decimal numbers, without a shell that can do more than POSIX.
        set -- $(od -An -tu1 -j60 -N4 "$ledger")
        [ "$#" = 4 ] || continue
        found=$((($1 * 256 + $2) * 256 * 256 + $3 * 256 + $4))
        if [ "$found" -gt @LEDGER_SCHEMA@ ]; then
            echo "maand-agent @VERSION@ is not installed: $ledger has schema $found, this version knows @LEDGER_SCHEMA@." >&2
            echo "What is installed stays and goes on. Install the maand-agent that wrote the ledger, or a newer one." >&2
            exit 1
        fi
    done
}

after_install() {
    reload
    systemd-tmpfiles --create maand-agent.conf || true
}

# Its jobs have scopes of their own, and do not notice.
after_upgrade() {
    reload
    restart_running 'maand-agent.service' 'maand-agent@*.service'
}

before_removal() {
    stop_and_disable 'maand-agent.service' 'maand-agent@*.service'
    for bucket in /opt/worker/*/jobs; do
        [ -d "$bucket" ] || continue
        echo "maand-agent: the agent is stopped; jobs of ${bucket%/jobs} go on running, and nobody looks after them." >&2
        echo "  To stop and clean up first: install it again, then maand-agent leave" >&2
    done
}

after_removal() {
    reload
}

# Who this machine was, and its settings; never what jobs are or have.
purge() {
    rm -rf /var/lib/maand-agent
    rm -f /etc/maand/agent.toml /etc/maand/agent.joined.toml /etc/maand/agent-*.toml
    rm -rf /etc/systemd/system/maand-agent.service.d /etc/systemd/system/maand-agent@.service.d
    rm -f /etc/systemd/system/multi-user.target.wants/maand-agent.service
    rm -f /etc/systemd/system/multi-user.target.wants/maand-agent@*.service
    rmdir --ignore-fail-on-non-empty /etc/maand 2>/dev/null || true
    if [ -d /opt/worker ]; then
        rmdir --ignore-fail-on-non-empty /opt/worker 2>/dev/null || true
    fi
    if [ -d /opt/worker ]; then
        echo "maand-agent: /opt/worker stays, with the jobs and their data." >&2
    fi
}
