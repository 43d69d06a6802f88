"""E-mail addresses of people in source files, masked; whatever else has an @ in it stays.

    Jane <jane@acme.com>, mailto:jane@acme.com   <EMAIL>
    git@github.com:a/b.git, https://u:p@host/    remotes and accounts in addresses of the web
    y = x@self.net, q@k.to(d)                    products of matrices
    icon@2x.png, react@17.0.2, lodash@next.js    names of files, versions of packages
    user@example.com, a@localhost, noreply@…     addresses of nobody
    @app.route, {@link a.b}, user@{host}         annotations, placeholders

StarCoder's own rows say `<EMAIL>` where its makers found an address, and so do these.
"""

import re
from typing import Any

from data_juicer.ops.base_op import OPERATORS, Mapper

ADDRESS = re.compile(
    r"(?<![A-Za-z0-9.+_@{}$%/\\-])[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}+@"
    r"((?:[A-Za-z0-9-]{1,63}+\.)+(?:com|org|net|edu|gov|mil|info|biz|io|dev|me|name|email|[a-z]{2}))"
    r"(?![\w(\[{$%@-]|\.\w|:[^\s\"'<>)]|/[\w.])",
    re.I,
)

_COUNTRY = re.compile(
    r"\.(?:a[cdertuz]|b[adegory]|c[ahilnoz]|d[ekz]|e[cest]|f[ir]|g[ert]|h[kru]|i[elnorst]|j[op]"
    r"|k[eghrz]|l[abktuv]|m[aenotxy]|n[lopz]|p[aehklt]|r[ou]|s[aegiknv]|t[hnrwz]|u[agksyz]|v[en]"
    r"|z[aw]|(?:co|ac|go|or|web)\.id)$",
    re.I,
)
"""Countries' endings; not those that files or attributes have (py, rs, sh, md, so, to, cc, js)."""

_NOBODY = re.compile(
    r"(?:[\w-]+\.)*(?:example|test|invalid|localhost|(?:my|your)?domain|email|mail|host|foo|bar"
    r"|server|company|site|abc|xyz|xxx)\.(?:com|org|net|edu|io|de|cn|co\.\w+)",
    re.I,
)
"""Domains that stand for any other (RFC 2606, and what people write instead)."""

_ACCOUNTS = re.compile(
    r"(?:git|hg|svn|cvs|ssh|noreply|no-reply|donotreply|root|user|username|name)@", re.I
)
_EXPRESSION = re.compile(r"(?:[=+([,*/-]|\breturn|\bin|\bprint)\s*$")
_IDENTIFIER = re.compile(
    r"[A-Za-z_]\w*@(?:self|this|cls|np|torch|tf|model|config|args|params)\.", re.I
)
_IN_WORDS = re.compile(r"//|#|/?\*|--|[\"'`<;]|[:：]\s|\b(?:by|mail|author|contact)\b", re.I)


@OPERATORS.register_module("mask_code_email_mapper")
class MaskCodeEmailMapper(Mapper):
    """Replaces people's e-mail addresses in source files."""

    _batched_op = True

    def __init__(self, mask: str = "<EMAIL>", *args: Any, **kwargs: Any) -> None:
        """Choose what stands in the place of an address.

        :param mask: the text
        """
        super().__init__(*args, **kwargs)
        self.mask = mask

    def masked(self, text: str) -> str:
        """One file with its addresses masked."""
        if "@" not in text:
            return text
        return ADDRESS.sub(self._mask, text)

    def _mask(self, found: re.Match[str]) -> str:
        address, domain = found.group(), found[1]
        text, start = found.string, found.start()
        if _ACCOUNTS.match(address) or _NOBODY.fullmatch(domain) or _IDENTIFIER.match(address):
            return address
        if domain[-3] == "." and not _COUNTRY.search(domain):
            return address
        # At most this much of the line before it is looked at, so that time stays linear.
        before = text[max(0, start - 200) : start].rpartition("\n")[2]
        if "://" in before.rpartition(" ")[2]:
            return address
        if _EXPRESSION.search(before) and not _IN_WORDS.search(before):
            return address
        return self.mask

    def process_batched(self, samples: dict[str, list[str]]) -> dict[str, list[str]]:
        """Mask the addresses in every file of a batch."""
        samples[self.text_key] = [self.masked(text) for text in samples[self.text_key]]
        return samples
