# Systemd's part, where it is the first process; in a root that is only being made there is nothing to tell it.

reload() {
    if [ -d /run/systemd/system ]; then
        systemctl --system daemon-reload >/dev/null || true
    fi
}

restart_running() {
    if [ -d /run/systemd/system ]; then
        @INVOKE@ try-restart "$@" >/dev/null || true
    fi
}

stop_and_disable() {
    if [ -d /run/systemd/system ]; then
        @INVOKE@ stop "$@" >/dev/null || true
    fi
    for unit in "$@"; do
        rm -f "/etc/systemd/system/multi-user.target.wants/"$unit
        rm -f "/etc/systemd/system/sockets.target.wants/"$unit
        rm -f "/etc/systemd/system/timers.target.wants/"$unit
    done
}
