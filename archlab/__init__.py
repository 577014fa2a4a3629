"""archlab: which parts of my network does the task need, and what does each cost?"""

from .capture import Call
from .finding import ACTIVATIONS, KINDS, Site, Sites
from .keeping import apply, load, save
from .passes import discard, omega_parameters, omegas, penalty, project_, remove, set_omegas_, switch
from .recipes import Recipe, Step, recipe
from .surveying import sites

__version__ = "0.1.0"
