# Completions of rdlm for fish.

# Whether this is the command; without a name, whether there is none yet.
function __rdlm_is
    set -l words (commandline -opc)
    not contains -- -- $words
    and test "$words[2]" = "$argv[1]"
end

# What follows -- is a command with completions of its own.
function __rdlm_runs
    contains -- -- (commandline -opc)
end

complete -c rdlm -f
complete -c rdlm -n __rdlm_runs -x -a '(complete -C (string replace -r "^.*? -- " "" -- (commandline -cp)))'
@LINES@
