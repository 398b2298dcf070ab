# Completion of rdlm for bash.

_rdlm() {
    local current=$2 previous=$3 command= word options=
    local commands="serve run acquire renew release get resources locks delete watch events health hash-password hash-token help"
    COMPREPLY=()
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        # Behind -- is the command of a run, with completions of its own.
        if [[ $word == -- ]]; then
            local i
            for ((i = 1; i < COMP_CWORD; i++)); do
                [[ ${COMP_WORDS[i]} == -- ]] && break
            done
            if declare -F _command_offset >/dev/null; then
                _command_offset $((i + 1))
            else
                COMPREPLY=($(compgen -c -- "$current"))
            fi
            return
        fi
        [[ -z $command && $word != -* ]] && command=$word
    done
    case $previous in
        --mode)
            COMPREPLY=($(compgen -W "NL CR CW PR PW EX shared exclusive" -- "$current"))
            return ;;
        --logging)
            COMPREPLY=($(compgen -W "debug info warning error none" -- "$current"))
            return ;;
        --log-format)
            COMPREPLY=($(compgen -W "text json" -- "$current"))
            return ;;
        --standby)
            COMPREPLY=($(compgen -W "forward redirect" -- "$current"))
            return ;;
        --etcd-ca | --etcd-cert | --etcd-key | --etcd-password-file)
            COMPREPLY=($(compgen -f -- "$current"))
            return ;;
        --data-dir)
            COMPREPLY=($(compgen -d -- "$current"))
            return ;;
        --event-log | --users | --tls-cert | --tls-key | --tls-client-ca | --advertise-ca | --ca | --cert | --key)
            COMPREPLY=($(compgen -f -- "$current"))
            return ;;
        --admin-userpass-file)
            COMPREPLY=($(compgen -W "yes no" -- "$current") $(compgen -f -- "$current"))
            return ;;
        --wait | --lifetime | --title | --limit | --kill-after | --timeout | --conflict-exit-code | --url | --port | --bind | \
            --base-url | --host | --trusted-proxy | --restart-grace | --reconnect-grace | --max-wait | --max-lifetime | \
            --fleetlock | --max-locks | --max-subscribers | --max-waiters | --max-waiters-per-resource | --max-connections | \
            --idle-timeout | --etcd | --etcd-prefix | --etcd-user | --advertise-url | --failover-after)
            return ;;
    esac
    case $command in
        "") options="$commands --help --version" ;;
        serve)
            options="--port --bind --data-dir --etcd --etcd-prefix --etcd-ca --etcd-cert --etcd-key
                --etcd-user --etcd-password-file --advertise-url --advertise-ca --failover-after --standby
                --restart-grace --reconnect-grace --logging
                --log-format --admin-userpass-file --users --open-metrics --tls-cert --tls-key
                --tls-client-ca --base-url --host --trusted-proxy
                --max-wait --max-lifetime
                --max-locks --max-waiters --max-waiters-per-resource --max-connections --max-subscribers --fleetlock
                --event-log --idle-timeout --help --version" ;;
        run) options="--wait --lifetime --title --mode --limit --kill-after --timeout
                --conflict-exit-code --quiet --url --ca --cert --key --help --" ;;
        acquire) options="--wait --lifetime --title --mode --limit --url --ca --cert --key --help" ;;
        renew) options="--lifetime --mode --wait --url --ca --cert --key --help" ;;
        release) options="--url --ca --cert --key --help" ;;
        get) options="--json --url --ca --cert --key --help" ;;
        resources) options="--json --url --ca --cert --key --help" ;;
        locks) options="--json --url --ca --cert --key --help" ;;
        delete) options="--all --url --ca --cert --key --help" ;;
        health) options="--url --ca --cert --key --help" ;;
        watch) options="--url --ca --cert --key --help" ;;
        events) options="--json --url --ca --cert --key --help" ;;
    esac
    COMPREPLY=($(compgen -W "$options" -- "$current"))
}

complete -F _rdlm rdlm
