# Completions of rdlm for bash.

_rdlm() {
    local current=$2 previous=$3 command= word words= i
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        # What follows -- is a command with completions of its own.
        if [[ $word == -- ]]; then
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
@VALUES@
    esac
    case $command in
        "") words="@FIRST@" ;;
@WORDS@
    esac
    COMPREPLY=($(compgen -W "$words" -- "$current"))
    case $command in
        # Not by compgen, which would interpret what the server sends.
        @RESOURCES@)
            [[ $current == -* ]] ||
                mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(rdlm __names "$current" 2>/dev/null)
            ;;
    esac
}

complete -F _rdlm rdlm
