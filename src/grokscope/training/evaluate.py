"""The one accuracy function.

Shape suffixes: P probes, B batch, S input positions, K labelled positions.
"""

import numpy as np
import numpy.typing as npt
import torch

from grokscope.models.protocol import Reasoner
from grokscope.training.data import labelled
from grokscope.training.loss import all_right, gather_states
from grokscope.world.format import Encoded


@torch.inference_mode()
def correct(model: Reasoner, encoded: Encoded, batch: int = 1024) -> npt.NDArray[np.bool_]:
    """(P,) bool: the exact match of every labelled position, with the weights and loops the model is
    evaluated with.

    The states have the dtype they are trained in. For an answer format the one label is the answer token; of
    several right answers any one will do.

    Args:
        model: the model.
        encoded: queries and labels.
        batch: queries per forward pass.
    """
    device = next(model.parameters()).device
    tokens_PS = torch.from_numpy(encoded.tokens_NS).to(device).long()
    position_PK, target_PK = (
        part.to(device).long() for part in labelled(torch.from_numpy(encoded.labels_NS))
    )
    everywhere = target_PK.shape[1] == tokens_PS.shape[1]
    answers_PA = None if encoded.answers_NA is None else torch.from_numpy(encoded.answers_NA).to(device)
    read_PK = position_PK == encoded.answer_position
    right = [torch.empty(0, dtype=torch.bool)]
    for start in range(0, len(tokens_PS), batch):
        here = slice(start, start + batch)
        state_BTD = model.hidden(tokens_PS[here], model.inference_loops)
        state_BKD = gather_states(state_BTD, model.prefix, None if everywhere else position_PK[here])
        # Without their prefix states lie apart, and there a bfloat16 product takes a hundred times as long.
        state_BKD = state_BKD.contiguous()
        said_BKV, target_BK = model.unembed(state_BKD), target_PK[here]
        if answers_PA is not None:
            # Whichever of the right answers is said is the label.
            said_BK = said_BKV.argmax(-1)
            any_BK = (said_BK[..., None] == answers_PA[here, None]).any(-1) & read_PK[here]
            target_BK = torch.where(any_BK, said_BK, target_BK)
        right.append(all_right(said_BKV, target_BK).cpu())
    return np.asarray(torch.cat(right).numpy())
