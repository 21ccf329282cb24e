"""Tables of plain facts in English and French, from which demo questions are made."""

from typing import NamedTuple


class Country(NamedTuple):
    """A country, its capital, and "the capital of" it in French."""

    english: str
    capital: str
    french: str
    french_capital: str


class Thing(NamedTuple):
    """An everyday thing and its colour, in both languages (French with its article)."""

    english: str
    colour: str
    french: str
    french_colour: str


class Animal(NamedTuple):
    """An animal, what it eats and where it lives, in both languages (French with its article)."""

    english: str
    food: str
    home: str
    french: str
    french_food: str
    french_home: str


# Norway and Japan are left for the held-out questions.
COUNTRIES: tuple[Country, ...] = (
    Country("France", "Paris", "de la France", "Paris"),
    Country("Italy", "Rome", "de l'Italie", "Rome"),
    Country("Spain", "Madrid", "de l'Espagne", "Madrid"),
    Country("Portugal", "Lisbon", "du Portugal", "Lisbonne"),
    Country("Germany", "Berlin", "de l'Allemagne", "Berlin"),
    Country("Austria", "Vienna", "de l'Autriche", "Vienne"),
    Country("Belgium", "Brussels", "de la Belgique", "Bruxelles"),
    Country("Greece", "Athens", "de la Grèce", "Athènes"),
    Country("Sweden", "Stockholm", "de la Suède", "Stockholm"),
    Country("Finland", "Helsinki", "de la Finlande", "Helsinki"),
    Country("Denmark", "Copenhagen", "du Danemark", "Copenhague"),
    Country("Ireland", "Dublin", "de l'Irlande", "Dublin"),
    Country("Iceland", "Reykjavik", "de l'Islande", "Reykjavik"),
    Country("Poland", "Warsaw", "de la Pologne", "Varsovie"),
    Country("Hungary", "Budapest", "de la Hongrie", "Budapest"),
    Country("Romania", "Bucharest", "de la Roumanie", "Bucarest"),
    Country("Egypt", "Cairo", "de l'Égypte", "Le Caire"),
    Country("Morocco", "Rabat", "du Maroc", "Rabat"),
    Country("Kenya", "Nairobi", "du Kenya", "Nairobi"),
    Country("Senegal", "Dakar", "du Sénégal", "Dakar"),
    Country("China", "Beijing", "de la Chine", "Pékin"),
    Country("India", "New Delhi", "de l'Inde", "New Delhi"),
    Country("Thailand", "Bangkok", "de la Thaïlande", "Bangkok"),
    Country("Vietnam", "Hanoi", "du Viêt Nam", "Hanoï"),
    Country("Canada", "Ottawa", "du Canada", "Ottawa"),
    Country("Mexico", "Mexico City", "du Mexique", "Mexico"),
    Country("Cuba", "Havana", "de Cuba", "La Havane"),
    Country("Peru", "Lima", "du Pérou", "Lima"),
    Country("Chile", "Santiago", "du Chili", "Santiago"),
    Country("Argentina", "Buenos Aires", "de l'Argentine", "Buenos Aires"),
    Country("Australia", "Canberra", "de l'Australie", "Canberra"),
    Country("New Zealand", "Wellington", "de la Nouvelle-Zélande", "Wellington"),
)

THINGS: tuple[Thing, ...] = (
    Thing("a banana", "yellow", "une banane", "jaune"),
    Thing("a lemon", "yellow", "un citron", "jaune"),
    Thing("a tomato", "red", "une tomate", "rouge"),
    Thing("a cherry", "red", "une cerise", "rouge"),
    Thing("a carrot", "orange", "une carotte", "orange"),
    Thing("a pumpkin", "orange", "une citrouille", "orange"),
    Thing("a cucumber", "green", "un concombre", "vert"),
    Thing("a frog", "green", "une grenouille", "verte"),
    Thing("a leaf", "green", "une feuille", "verte"),
    Thing("the sky", "blue", "le ciel", "bleu"),
    Thing("the sea", "blue", "la mer", "bleue"),
    Thing("snow", "white", "la neige", "blanche"),
    Thing("milk", "white", "le lait", "blanc"),
    Thing("coal", "black", "le charbon", "noir"),
    Thing("a crow", "black", "un corbeau", "noir"),
    Thing("chocolate", "brown", "le chocolat", "brun"),
    Thing("an elephant", "grey", "un éléphant", "gris"),
    Thing("a flamingo", "pink", "un flamant", "rose"),
    Thing("blood", "red", "le sang", "rouge"),
    Thing("an aubergine", "purple", "une aubergine", "violette"),
)

ANIMALS: tuple[Animal, ...] = (
    Animal("horse", "grass", "in a stable", "le cheval", "de l'herbe", "dans une écurie"),
    Animal("sheep", "grass", "in a meadow", "le mouton", "de l'herbe", "dans un pré"),
    Animal("cat", "meat", "in a house", "le chat", "de la viande", "dans une maison"),
    Animal("wolf", "meat", "in the forest", "le loup", "de la viande", "dans la forêt"),
    Animal("bear", "berries", "in the forest", "l'ours", "des baies", "dans la forêt"),
    Animal("squirrel", "nuts", "in a tree", "l'écureuil", "des noisettes", "dans un arbre"),
    Animal("monkey", "fruit", "in the jungle", "le singe", "des fruits", "dans la jungle"),
    Animal("owl", "mice", "in a tree", "le hibou", "des souris", "dans un arbre"),
    Animal("seal", "fish", "by the sea", "le phoque", "du poisson", "au bord de la mer"),
    Animal("whale", "krill", "in the ocean", "la baleine", "du krill", "dans l'océan"),
    Animal("chicken", "grain", "on a farm", "la poule", "des graines", "dans une ferme"),
    Animal("pig", "almost anything", "on a farm", "le cochon", "de tout", "dans une ferme"),
    Animal("panda", "bamboo", "in China", "le panda", "du bambou", "en Chine"),
    Animal("giraffe", "leaves", "in Africa", "la girafe", "des feuilles", "en Afrique"),
    Animal("koala", "eucalyptus", "in Australia", "le koala", "de l'eucalyptus", "en Australie"),
    Animal("camel", "dry plants", "in the desert", "le chameau", "des plantes", "dans le désert"),
)
