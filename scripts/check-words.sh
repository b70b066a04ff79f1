#!/usr/bin/env bash
# Text that an operator reads uses the words of docs/glossary.md and not the ones below: README, docs/*.md, help screens and
# rendered output (golden files), what the package installs, and string literals of the code (errors, hints, logs, checks).
# Comments, tests and docs/decisions are not looked at.
set -euo pipefail
cd "$(dirname "$0")/.."

# Instead: the thing itself ("another program", "no process"), recreated, "did not help", notified or reported, fix, periodic
# resync, "N warnings", "invalid".
words='whoever|nobody|somebody|anew|in vain|told|mend|mends|mended|mending|look around|to look at|makes no sense'

# Files that may use one, each with its reason.
allowed=()

{
    git ls-files README.md 'docs/*.md' ':!docs/decisions/*' packaging 'cli/tests/golden/*'
    git ls-files 'cli/src/*.rs' 'core/src/*.rs' 'daemon/src/*.rs' 'dns/src/*.rs' 'gateway/src/*.rs' '*/src/*.rs' \
        ':!tests/*' ':!fuzz/*' ':!*/tests.rs' ':!*/tests/*.rs'
} | sort -u | WORDS=$words ALLOWED="${allowed[*]}" perl -e '
    my $words = join "|", map { s/ /\\s+/gr } split /\|/, $ENV{WORDS};
    my ($found, @allowed) = (0, split / /, $ENV{ALLOWED});
    sub look { my ($file, $line, $text) = @_;
        while ($text =~ /\b($words)\b/gi) {
            my $at = $line + (substr($text, 0, $-[0]) =~ tr/\n//);
            print STDERR "check-words: $file:$at: $1\n"; $found = 1;
        }
    }
    while (my $file = <STDIN>) {
        chomp $file;
        next if grep { index($file, $_) == 0 } @allowed;
        open(my $in, "<", $file) or next; local $/; my $text = <$in>; $/ = "\n";
        if ($file !~ /\.rs$/) { look($file, 1, $text); next; }
        $text =~ s/^#\[cfg\(test\)\]\n(?:pub(?:\(\w+\))? )?mod tests \{.*//ms;
        # Comments and characters are passed over, so that a quote in them opens no string.
        while ($text =~ m{//[^\n]*|/\*.*?\*/|b?r(#*)"(.*?)"\1|b?"((?:[^"\\]|\\.)*)"|\x27(?:[^\x27\\\n]|\\[^\n]{1,8}?)\x27|\w+}gs) {
            my $literal = $2 // $3 // next;
            my $line = 1 + (substr($text, 0, $-[0]) =~ tr/\n//);
            # Names in braces are code; a line that ends with a backslash goes on.
            look($file, $line, $literal =~ s/\{[^{}\s]*\}/{}/gr =~ s/\\\n/ \n/gr);
        }
    }
    exit $found;
'
