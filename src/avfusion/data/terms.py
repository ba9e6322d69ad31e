"""Terms of use: who downloads a dataset has read and accepted them, and says so in the configuration."""

from avfusion.errors import InputError


def demand_acceptance(terms: str | None, accepted: bool, config: str) -> None:
    """Go on only if there are no terms, or they have been accepted.

    Args:
        terms: address of the terms.
        accepted: what ``media: {accept_terms: ...}`` says.
        config: file that says it, for the message.

    Raises:
        InputError: one line that says what to read and what to write.
    """
    if terms and not accepted:
        problem = f"read the terms at {terms}; if you accept them, write `accept_terms: true` under `media`"
        raise InputError(config, problem, "media.accept_terms")
