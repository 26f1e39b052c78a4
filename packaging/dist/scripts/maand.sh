# What the packages of maand do around their files. The format's own way of saying which of these is due is added by
# packaging/src/dist/script.rs.

# A catalog of a newer maand would be refused when this one starts: so it is not put in its place at all.
# The schema is SQLite's user_version, four bytes from 60 on.
refuse_older() {
    for catalog in /var/lib/maand/*/data/maand.db; do
        [ -f "$catalog" ] || continue
        # Four decimal numbers, without a shell that can do more than POSIX.
        set -- $(od -An -tu1 -j60 -N4 "$catalog")
        [ "$#" = 4 ] || continue
        found=$((($1 * 256 + $2) * 256 * 256 + $3 * 256 + $4))
        if [ "$found" -gt @CATALOG_SCHEMA@ ]; then
            echo "maand @VERSION@ is not installed: $catalog has schema $found, this version knows @CATALOG_SCHEMA@." >&2
            echo "What is installed stays and goes on. Install the maand that wrote the catalog, or a newer one;" >&2
            echo "or put data/maand.db.schema-*.bak back and run maand recover (docs/guides/upgrade.md)." >&2
            exit 1
        fi
    done
}

after_install() {
    systemd-sysusers maand.conf
    systemd-tmpfiles --create maand.conf || true
    reload
}

# systemd keeps the port meanwhile: agents wait in its queue.
after_upgrade() {
    systemd-sysusers maand.conf
    systemd-tmpfiles --create maand.conf || true
    reload
    restart_running maand-serve.service maand-drive.service 'maand-serve@*.service' 'maand-drive@*.service'
}

before_removal() {
    stop_and_disable maand-backup.timer maand-drive.service maand-serve.socket maand-serve.service \
        'maand-backup@*.timer' 'maand-drive@*.service' 'maand-serve@*.service'
    for catalog in /var/lib/maand/*/data/maand.db; do
        [ -f "$catalog" ] || continue
        echo "maand: nobody speaks to agents now; they keep what they run." >&2
        break
    done
}

after_removal() {
    reload
}

# The bucket is the operator's, and has the keys of the fleet: it is not this package's to remove.
purge() {
    for unit in serve drive backup serve@ drive@ backup@; do
        rm -rf "/etc/systemd/system/maand-$unit.service.d" "/etc/systemd/system/maand-$unit.timer.d"
    done
    rm -rf /etc/systemd/system/maand-serve.socket.d
    rm -f /etc/systemd/system/multi-user.target.wants/maand-serve.service
    rm -f /etc/systemd/system/multi-user.target.wants/maand-drive.service
    rm -f /etc/systemd/system/multi-user.target.wants/maand-serve@*.service
    rm -f /etc/systemd/system/multi-user.target.wants/maand-drive@*.service
    rm -f /etc/systemd/system/sockets.target.wants/maand-serve.socket
    rm -f /etc/systemd/system/timers.target.wants/maand-backup.timer
    rm -f /etc/systemd/system/timers.target.wants/maand-backup@*.timer
    for dir in /var/lib/maand/bucket /var/lib/maand/backup /var/lib/maand; do
        [ ! -d "$dir" ] || rmdir --ignore-fail-on-non-empty "$dir" 2>/dev/null || true
    done
    if [ -d /var/lib/maand ]; then
        echo "maand: /var/lib/maand stays, with the bucket and its keys." >&2
    fi
}
